"use strict";
// Charts: values under the pointer or the arrow keys, lines that come and go by their legend.
const SVG = "http://www.w3.org/2000/svg";
const MOST_SHOWN = 12;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  parent.append(made);
  return made;
}

function scales(svg) {
  const d = {};
  for (const key in svg.dataset) d[key] = Number(svg.dataset[key]);
  const y = (v) => (d.log ? Math.log10(v) : v);
  const x = (v) => (d.logx ? Math.log10(v) : v);
  return {
    ...d,
    atX: (v) => (d.x1 > d.x0 ? d.left + ((d.right - d.left) * (x(v) - x(d.x0))) / (x(d.x1) - x(d.x0)) : (d.left + d.right) / 2),
    atY: (v) => d.bottom - ((d.bottom - d.top) * (y(v) - y(d.y0))) / (y(d.y1) - y(d.y0)),
  };
}

function valueAt(line, i, key = "values") {
  return i < line.start ? undefined : (line[key] || [])[i - line.start];
}

// A box beside the pointer; its text is also told to screen readers.
function tipIn(parent) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  parent.append(tip);
  return tip;
}

// At (x, y) of its parent; where that is too narrow, `below` what is pointed at.
function say(tip, title, rows, x, y, below) {
  tip.replaceChildren();
  const head = document.createElement("b");
  head.textContent = title;
  tip.append(head);
  for (const [look, text] of rows) {
    const row = document.createElement("span");
    if (look !== null) row.append(Object.assign(document.createElement("i"), { className: look }));
    row.append(text);
    tip.append(row);
  }
  tip.hidden = false;
  const room = tip.parentElement.clientWidth;
  const left = x + 14 + tip.offsetWidth > room ? x - tip.offsetWidth - 14 : x + 14;
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${Math.max(0, left < 0 ? below : y)}px`;
}

function drawLine(svg, data, number) {
  const line = data.lines[number];
  const s = scales(svg);
  const group = element("g", { class: `line ${line.look}`, "data-line": number }, svg);
  let path = "";
  let pen = "M";
  const few = data.x.length <= 30;
  data.x.forEach((x, i) => {
    const v = valueAt(line, i);
    if (v === undefined || v === null) return void (pen = "M");
    path += `${pen}${s.atX(x).toFixed(1)} ${s.atY(v).toFixed(1)}`;
    pen = "L";
    if (few) element("circle", { class: "marks", cx: s.atX(x), cy: s.atY(v), r: 3.2 }, group);
  });
  element("path", { class: "stroke", d: path }, group);
}

function setUpChart(chart) {
  const data = JSON.parse(chart.querySelector("script").textContent);
  const plots = [...chart.querySelectorAll("svg.plot")];
  const buttons = [...chart.querySelectorAll("button[data-line]")];
  const off = new Set(buttons.filter((b) => b.getAttribute("aria-pressed") === "false").map((b) => Number(b.dataset.line)));
  const tip = tipIn(chart);
  function toggle(button, on) {
    const number = Number(button.dataset.line);
    button.setAttribute("aria-pressed", String(on));
    if (on) off.delete(number);
    else off.add(number);
    for (const svg of plots) {
      const group = svg.querySelector(`g[data-line="${number}"]`);
      if (group) group.classList.toggle("off", !on);
      else if (on) drawLine(svg, data, number);
    }
  }
  for (const button of buttons) button.addEventListener("click", () => toggle(button, off.has(Number(button.dataset.line))));
  const find = chart.querySelector("input.find");
  if (find) {
    find.addEventListener("input", () => {
      const wanted = find.value.toLowerCase();
      for (const b of buttons) b.classList.toggle("off", !b.textContent.toLowerCase().includes(wanted));
    });
    chart.querySelector("button.none").addEventListener("click", () => buttons.forEach((b) => toggle(b, false)));
  }
  for (const svg of plots) {
    let at = -1;
    let cross = null;
    const show = (i) => {
      at = i;
      const s = scales(svg);
      const x = s.atX(data.x[i]);
      cross = cross || element("path", { class: "cross" }, svg);
      cross.setAttribute("d", `M${x} ${s.top}V${s.bottom}`);
      const rows = [];
      data.lines.forEach((line, n) => {
        const v = valueAt(line, i);
        if (off.has(n) || v === undefined || v === null) return;
        const low = valueAt(line, i, "low");
        const errors = low === undefined || low === null ? "" : ` (${low} to ${valueAt(line, i, "high")})`;
        rows.push([line.look, `${line.name}: ${v}${errors}`]);
      });
      const more = rows.length - MOST_SHOWN;
      if (more > 0) rows.splice(MOST_SHOWN, more, [null, `and ${more} more`]);
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const top = box.top - chart.getBoundingClientRect().top;
      say(tip, `${data.x_label} ${data.x[i]}`, rows, x * scale, top + s.top * scale, top + box.height);
    };
    const hide = () => {
      tip.hidden = true;
      if (cross) cross.setAttribute("d", "");
    };
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const s = scales(svg);
      const x = ((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width;
      let best = 0;
      data.x.forEach((v, i) => {
        if (Math.abs(s.atX(v) - x) < Math.abs(s.atX(data.x[best]) - x)) best = i;
      });
      if (data.x.length) show(best);
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !data.x.length) return;
      event.preventDefault();
      show(Math.min(data.x.length - 1, Math.max(0, at < 0 ? 0 : at + step)));
    });
  }
}

for (const chart of document.querySelectorAll(".chart")) setUpChart(chart);
for (const find of document.querySelectorAll("input[data-rows]")) {
  const rows = [...document.getElementById(find.dataset.rows).rows];
  find.addEventListener("input", () => {
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(find.value.toLowerCase());
  });
}
