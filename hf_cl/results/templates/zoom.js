// The confusion matrix of single classes: a canvas that shows hundreds of classes at once and each pair when it is near.
function setUpZoom(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const canvas = box.querySelector("canvas");
  const count = data.names.length;
  const totals = new Array(count).fill(0);
  const cells = new Map(); // row * count + column -> images
  for (let i = 0; i < data.pairs.length; i += 3) {
    cells.set(data.pairs[i] * count + data.pairs[i + 1], data.pairs[i + 2]);
  }
  data.images.forEach((n, row) => (totals[row] = n));
  const tip = tipIn(box);
  let view = { x: 0, y: 0, size: count };
  let cursor = null;
  let area = null;

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const least = Math.min(count, 4);

  function clamp() {
    view.size = Math.min(count, Math.max(least, view.size));
    view.x = Math.min(count - view.size, Math.max(0, view.x));
    view.y = Math.min(count - view.size, Math.max(0, view.y));
  }

  function draw() {
    const dense = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    pen.font = "12px system-ui, sans-serif";
    const named = Math.min(width, height) / view.size >= 13; // a name needs a line
    const margin = named ? Math.min(130, width * 0.28, widest(pen) + 16) : 8;
    const side = Math.min(width, height) - margin - 4;
    area = { left: margin, top: margin, side, cell: side / view.size };
    pen.fillStyle = color("--page");
    pen.fillRect(area.left, area.top, side, side);
    drawCells(pen);
    drawSessions(pen);
    if (named) drawNames(pen);
  }

  function widest(pen) {
    const shown = [view.x, view.y].flatMap((begin) => data.names.slice(Math.floor(begin), Math.ceil(begin + view.size)));
    return Math.max(...shown.map((name) => pen.measureText(name).width));
  }

  function drawCells(pen) {
    const { left, top, side, cell } = area;
    const ink = { right: color("--c0"), wrong: color("--c1"), text: color("--ink") };
    pen.save();
    pen.beginPath();
    pen.rect(left, top, side, side);
    pen.clip();
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const [key, images] of cells) {
      const row = Math.floor(key / count);
      const column = key % count;
      if (row + 1 < view.y || row > view.y + view.size || column + 1 < view.x || column > view.x + view.size) continue;
      const x = left + (column - view.x) * cell;
      const y = top + (row - view.y) * cell;
      const size = Math.max(cell - (cell > 6 ? 1 : 0), 1.5);
      pen.globalAlpha = Math.min(1, 0.15 + 0.45 * Math.sqrt(images / totals[row]) + (cell < 22 ? 0.35 : 0));
      pen.fillStyle = row === column ? ink.right : ink.wrong;
      pen.fillRect(x, y, size, size);
      if (cell >= 22) {
        pen.globalAlpha = 1;
        pen.fillStyle = ink.text;
        pen.fillText(String(images), x + cell / 2, y + cell / 2);
      }
    }
    pen.globalAlpha = 1;
    if (cursor) {
      pen.strokeStyle = ink.text;
      pen.lineWidth = 1.5;
      pen.strokeRect(left + (cursor.column - view.x) * cell, top + (cursor.row - view.y) * cell, cell, cell);
    }
    pen.restore();
  }

  function drawSessions(pen) {
    const { left, top, side, cell } = area;
    pen.strokeStyle = color("--muted");
    pen.globalAlpha = 0.55;
    pen.lineWidth = 1;
    pen.beginPath();
    const crowded = data.begins.length * 6 > (side * count) / view.size; // every session has its lines, or none has
    for (const begin of crowded ? [] : data.begins) {
      const x = left + (begin - view.x) * cell;
      const y = top + (begin - view.y) * cell;
      if (begin > view.x && begin < view.x + view.size) pen.moveTo(x, top), pen.lineTo(x, top + side);
      if (begin > view.y && begin < view.y + view.size) pen.moveTo(left, y), pen.lineTo(left + side, y);
    }
    pen.stroke();
    pen.globalAlpha = 1;
    pen.strokeRect(left, top, side, side);
  }

  function fitted(pen, text, room) {
    if (pen.measureText(text).width <= room) return text;
    let length = text.length;
    while (length > 1 && pen.measureText(`${text.slice(0, length)}…`).width > room) length -= 1;
    return `${text.slice(0, length)}…`;
  }

  function drawNames(pen) {
    const { left, top, side, cell } = area;
    pen.fillStyle = color("--muted");
    pen.textBaseline = "middle";
    for (let i = Math.floor(view.y); i < Math.min(count, view.y + view.size); i++) {
      const y = top + (i + 0.5 - view.y) * cell;
      if (y < top || y > top + side) continue;
      pen.textAlign = "right";
      pen.fillText(fitted(pen, data.names[i], left - 10), left - 6, y);
    }
    for (let i = Math.floor(view.x); i < Math.min(count, view.x + view.size); i++) {
      const x = left + (i + 0.5 - view.x) * cell;
      if (x < left || x > left + side) continue;
      pen.save();
      pen.translate(x, top - 6);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(fitted(pen, data.names[i], top - 10), 0, 0);
      pen.restore();
    }
  }

  function told() {
    const { row, column } = cursor;
    const images = cells.get(row * count + column) || 0;
    const share = totals[row] ? ` (${((100 * images) / totals[row]).toFixed(1)} %)` : "";
    const said = row === column ? "named rightly" : `named ${data.names[column]}`;
    const x = area.left + (column + 1 - view.x) * area.cell;
    const y = area.top + (row - view.y) * area.cell;
    const top = canvas.offsetTop;
    say(tip, `is ${data.names[row]}`, [[null, `${said}: ${images} of ${totals[row]} images${share}`]], x, y + top, top + canvas.clientHeight);
  }

  function zoom(factor, at) {
    const middle = at || { x: view.x + view.size / 2, y: view.y + view.size / 2 };
    const before = view.size;
    view.size *= factor;
    clamp();
    view.x = middle.x - ((middle.x - view.x) * view.size) / before;
    view.y = middle.y - ((middle.y - view.y) * view.size) / before;
    clamp();
    tip.hidden = true;
    draw();
  }

  function place(event) {
    const frame = canvas.getBoundingClientRect();
    return {
      x: view.x + (event.clientX - frame.left - area.left) / area.cell,
      y: view.y + (event.clientY - frame.top - area.top) / area.cell,
    };
  }

  function rest(x, y) {
    const inside = x >= view.x && y >= view.y && x < view.x + view.size && y < view.y + view.size;
    cursor = inside ? { row: Math.floor(y), column: Math.floor(x) } : null;
    draw();
    if (cursor) told();
    else tip.hidden = true;
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => (drag = { ...place(event), moved: false }));
  window.addEventListener("pointerup", () => (drag = null));
  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (drag && event.buttons && event.pointerType === "mouse") {
      view.x += drag.x - at.x;
      view.y += drag.y - at.y;
      clamp();
      return draw();
    }
    rest(at.x, at.y);
  });
  canvas.addEventListener("pointerleave", () => rest(-1, -1));
  canvas.addEventListener("dblclick", (event) => zoom(0.5, place(event)));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls until somebody works here
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, place(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.5 : 2, cursor && { x: cursor.column, y: cursor.row });
    else if (step) {
      event.preventDefault();
      const within = (n) => Math.min(count - 1, Math.max(0, n));
      cursor = cursor ? { column: within(cursor.column + step[0]), row: within(cursor.row + step[1]) } : { column: 0, row: 0 };
      view.x = Math.min(cursor.column, Math.max(view.x, cursor.column + 1 - view.size));
      view.y = Math.min(cursor.row, Math.max(view.y, cursor.row + 1 - view.size));
      draw();
      told();
    }
  });
  const steps = { in: () => zoom(0.5), out: () => zoom(2), all: () => ((view = { x: 0, y: 0, size: count }), draw()) };
  for (const button of box.querySelectorAll("button[data-zoom]")) button.addEventListener("click", steps[button.dataset.zoom]);
  const choice = box.querySelector("input.class");
  choice.addEventListener("change", () => {
    const row = data.names.indexOf(choice.value);
    if (row < 0) return;
    view.size = Math.min(count, 20);
    view.x = view.y = row - view.size / 2;
    clamp();
    cursor = { row, column: row };
    draw();
    told();
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

for (const box of document.querySelectorAll(".zoom")) setUpZoom(box);
