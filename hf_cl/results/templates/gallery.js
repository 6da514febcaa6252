// The gallery: pictures chosen by class, by right or wrong and by confidence, and each one large.
function setUpGallery(gallery) {
  const figures = [...gallery.querySelectorAll("figure")];
  const [name, outcome, least, most] = ["class", "outcome", "least", "most"].map((key) => gallery.querySelector(`[data-filter="${key}"]`));
  const counted = gallery.querySelector("output");
  function filter() {
    let shown = 0;
    for (const figure of figures) {
      const { true: is, said, outcome: right, confidence } = figure.dataset;
      const fits =
        (!name.value || is === name.value || said === name.value) &&
        (!outcome.value || outcome.value === right) &&
        Number(confidence) >= Number(least.value) &&
        Number(confidence) <= Number(most.value);
      figure.hidden = !fits;
      shown += fits;
    }
    counted.textContent = `${shown} of ${figures.length} pictures, confidence ${least.value} to ${most.value} %`;
  }
  for (const control of [name, outcome, least, most]) control.addEventListener("input", filter);
  const dialog = gallery.querySelector("dialog");
  const picture = dialog.querySelector("img");
  const text = dialog.querySelector("div");
  function show(figure) {
    const image = figure.querySelector("img");
    picture.src = image.src;
    picture.alt = image.alt;
    text.replaceChildren(figure.querySelector("figcaption").cloneNode(true));
    for (const row of text.querySelectorAll("[data-name]")) {
      const alike = figures.find((one) => one !== figure && one.dataset.true === row.dataset.name);
      if (alike) row.prepend(Object.assign(document.createElement("img"), { src: alike.querySelector("img").src, alt: "" }));
    }
  }
  let current = 0;
  function step(by) {
    const visible = figures.filter((figure) => !figure.hidden);
    current = (current + by + visible.length) % visible.length;
    show(visible[current]);
  }
  for (const figure of figures) {
    figure.querySelector("button").addEventListener("click", () => {
      current = figures.filter((one) => !one.hidden).indexOf(figure);
      show(figure);
      dialog.showModal();
    });
  }
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.querySelector(".before").addEventListener("click", () => step(-1));
  dialog.querySelector(".after").addEventListener("click", () => step(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") step(event.key === "ArrowLeft" ? -1 : 1);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  filter();
}

for (const gallery of document.querySelectorAll(".examples")) setUpGallery(gallery);
