"use strict";
// Draws the images of the page from the data in it. One card is one image: a picture with its crops, a strip with a bar for each crop,
// and the label of one of them. Moving over the picture or the strip shows a crop, a click or a key chooses it.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const COLORED = 6; // classes of an image that have a colour of their own
const FEW = 24; // so many crops are drawn as frames, more as dots in their middles
const SMALL = 100; // pixels: below, they are shown as squares

const nameOf = (number) => data.names[number] ?? `class ${number}`;
const short = (value) => (value === 0 || value >= 0.0005 ? value.toFixed(3) : value >= 0.00005 ? value.toFixed(4) : value.toExponential(0));
const total = (values) => values.reduce((sum, value) => sum + value, 0);

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function drawn(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function place(rect, x, y, width, height) {
  for (const [name, value] of Object.entries({ x, y, width, height })) rect.setAttribute(name, value);
}

// Colours of classes, by how many crops of an image they are on top of; and of those in the maps of its label field.
function colorsOf(image) {
  const counts = new Map();
  for (const { classes } of image.crops) counts.set(classes[0], (counts.get(classes[0]) ?? 0) + 1);
  const often = [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one) || one - other);
  const ranks = new Map([...new Set([...often, ...(image.field?.classes ?? [])])].map((number, rank) => [number, rank]));
  const color = (number) => ((ranks.get(number) ?? COLORED) < COLORED ? `var(--c${ranks.get(number)})` : "var(--c-other)");
  return { rank: (number) => ranks.get(number), color };
}

class Card {
  constructor(image) {
    this.image = image;
    this.colors = colorsOf(image);
    const { rank } = this.colors;
    // Crops in the order of the strip: those with the same top class side by side, the surest first.
    this.order = image.crops.map((_, number) => number).sort((one, other) => {
      const [a, b] = [image.crops[one], image.crops[other]];
      return rank(a.classes[0]) - rank(b.classes[0]) || b.targets[0] - a.targets[0];
    });
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.chosen = this.farthest() ?? this.order[Math.floor(image.crops.length / 2)];
    this.text = [image.key, ...this.classesOnTop().map((number) => `${nameOf(number)} ${number}`)].join("\n").toLowerCase();
    this.writeSummary();
    this.drawPicture();
    this.drawStrip();
    this.writeTail();
    this.listen();
  }

  // The crop whose labels lie farthest apart in the two sets.
  farthest() {
    const known = this.order.filter((number) => this.image.crops[number].other);
    const apart = (number) => this.image.crops[number].other.variation;
    return known.length ? known.reduce((one, other) => (apart(other) > apart(one) ? other : one)) : undefined;
  }

  classesOnTop() {
    const classes = new Set(this.image.crops.map(({ classes }) => classes[0]));
    if (this.image.true_class !== null) classes.add(this.image.true_class);
    return [...classes];
  }

  writeSummary() {
    const { image } = this;
    const name = image.key.lastIndexOf("/") + 1;
    this.find("h2").append(make("span", "", image.key.slice(0, name)), document.createElement("wbr"), image.key.slice(name));
    const said = [`${image.crops.length} crops`];
    if (image.true_class !== null) said.push(`its class, ${nameOf(image.true_class)} ◆, has ${short(image.of_true_class)} on average`);
    said.push(`entropy ${image.entropy.toFixed(2)}`);
    if (image.variation !== null) said.push(`A and B ${short(image.variation)} apart`);
    this.find(".summary").textContent = said.join(" · ");
  }

  drawPicture() {
    const { image } = this;
    const [height, width] = image.padded_size;
    const pixels = this.find("img");
    pixels.src = image.picture;
    pixels.alt = image.key;
    pixels.width = width;
    pixels.height = height;
    this.find(".picture").classList.toggle("small", Math.max(width, height) < SMALL);
    const svg = this.find(".crops");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    const few = image.crops.length <= FEW;
    const paths = new Map();
    for (const { crop: [top, left, high, wide], classes } of image.crops) {
      const color = this.colors.color(classes[0]);
      const mark = few ? `M${left} ${top}h${wide}v${high}h${-wide}z` : `M${left + wide / 2} ${top + high / 2}h0`;
      paths.set(color, (paths.get(color) ?? "") + mark);
    }
    for (const [color, d] of paths) this.find(".shade").after(drawn("path", { class: few ? "frames" : "middles", d, style: `stroke: ${color}` }));
    if (!few) this.find(".shade").after(drawn("path", { class: "middles rims", d: [...paths.values()].join("") }));
    if (data.padding) place(this.find(".inside"), data.padding, data.padding, width - 2 * data.padding, height - 2 * data.padding);
  }

  drawStrip() {
    const { image, order } = this;
    const svg = this.find(".strip");
    const apart = image.variation === null ? 0 : 40;
    svg.setAttribute("viewBox", `0 0 ${order.length} ${100 + apart}`);
    svg.setAttribute("aria-valuemin", 1);
    svg.setAttribute("aria-valuemax", order.length);
    const gap = order.length > 120 ? 0 : 0.15;
    const paths = new Map();
    let distances = "";
    order.forEach((number, x) => {
      const { classes, targets, other } = image.crops[number];
      const color = this.colors.color(classes[0]);
      const high = 100 * targets[0];
      paths.set(color, `${paths.get(color) ?? ""}M${x} 100v${-high}h${1 - gap}v${high}z`);
      if (other) distances += `M${x} 102v${other.variation * (apart - 2)}h${1 - gap}v${-other.variation * (apart - 2)}z`;
    });
    for (const [color, d] of paths) svg.prepend(drawn("path", { d, style: `fill: ${color}` }));
    if (apart) svg.prepend(drawn("path", { d: distances, class: "apart" }));
  }

  writeTail() {
    const { tail } = this.image;
    const details = this.find(".tail");
    if (tail === null) {
      details.remove();
      return;
    }
    const others = data.num_classes - tail.num_listed;
    const rest = others > 0 ? `; each of the ${others} others ${short(tail.floor)}` : "";
    details.firstElementChild.textContent = `Tail of the image: ${tail.num_listed} classes${rest}`;
    const most = tail.shares[0] || 1;
    tail.classes.forEach((number, rank) =>
      details.lastElementChild.append(this.row(nameOf(number), short(tail.shares[rank]), tail.shares[rank] / most, this.colors.color(number))));
  }

  drawField() {
    const { field } = this.image;
    const details = this.find(".field");
    if (field === null) {
      details.remove();
      return;
    }
    details.firstElementChild.textContent = "Label field: the same classes for crops anywhere in the image";
    field.classes.forEach((number, rank) => {
      const figure = make("figure", "");
      const caption = make("figcaption", "");
      const most = Math.max(...field.targets.map((targets) => Math.max(...targets[rank].flat())));
      caption.append(make("b", "", nameOf(number)), ` full colour: ${short(most)}`);
      const scales = make("div", "scales");
      figure.append(caption, scales);
      details.lastElementChild.append(figure);
      figure.style.setProperty("--dot", this.colors.color(number));
      figure.style.color = "var(--dot)";
      const { color } = getComputedStyle(figure);
      field.scales.forEach((scale, level) => {
        const cell = make("div", "");
        const canvas = make("canvas", "");
        cell.append(canvas, make("small", "", `crops of ${100 * scale} %`));
        scales.append(cell);
        drawMap(canvas, this.find("img"), field, field.targets[level][rank], scale, most, color);
      });
    });
  }

  row(name, value, length, color) {
    const row = make("li", "");
    const bars = make("div", "bars");
    const bar = make("div", "ours");
    bar.style.width = `${100 * length}%`;
    bar.style.backgroundColor = color;
    bars.append(bar);
    const label = make("span", "name", name);
    label.title = name;
    row.append(label, make("span", "value", value), bars);
    return row;
  }

  // Show a crop: where it lies, its pixels, and its label.
  show(number) {
    this.shown = number;
    const { image } = this;
    const crop = image.crops[number];
    const [top, left, high, wide] = crop.crop;
    const [height, width] = image.padded_size;
    const color = this.colors.color(crop.classes[0]);
    this.find(".shade").setAttribute("d", `M0 0H${width}V${height}H0zM${left} ${top}h${wide}v${high}h${-wide}z`);
    const frame = this.find(".crops .chosen");
    place(frame, left, top, wide, high);
    frame.style.stroke = color;
    const position = this.order.indexOf(number);
    const mark = Math.max(1, this.order.length / 100); // wide enough to be seen
    place(this.find(".strip .chosen"), position + (1 - mark) / 2, 0, mark, 200);
    const strip = this.find(".strip");
    strip.setAttribute("aria-valuenow", position + 1);
    strip.setAttribute("aria-valuetext", `crop ${number}: ${nameOf(crop.classes[0])} ${short(crop.targets[0])}`);
    this.drawCrop(crop);
    const caption = this.find("figcaption");
    const mirrored = crop.flipped ? ", mirrored" : "";
    caption.replaceChildren(make("b", "", `Crop ${number}`), `${mirrored}: ${high} × ${wide} at ${top}, ${left}; entropy ${crop.entropy.toFixed(2)}`);
    if (crop.other) caption.append(`. B: entropy ${crop.other.entropy.toFixed(2)}, KL ${crop.other.kl === null ? "infinite" : short(crop.other.kl)}`);
    this.find(".label .classes").replaceChildren(...this.labelRows(crop));
  }

  drawCrop({ crop: [top, left, high, wide], flipped }) {
    const canvas = this.find("canvas");
    canvas.width = canvas.height = data.crop_size;
    canvas.classList.toggle("small", data.crop_size < SMALL);
    const pixels = this.find("img");
    if (!pixels.complete || !pixels.naturalWidth) return; // drawn again when it is loaded
    const context = canvas.getContext("2d");
    const scale = pixels.naturalWidth / this.image.padded_size[1];
    context.imageSmoothingQuality = "high";
    if (flipped) context.setTransform(-1, 0, 0, 1, canvas.width, 0);
    context.drawImage(pixels, left * scale, top * scale, wide * scale, high * scale, 0, 0, canvas.width, canvas.height);
  }

  labelRows(crop) {
    const rows = crop.classes.map((number, rank) => {
      const row = this.row(nameOf(number), short(crop.targets[rank]), crop.targets[rank], this.colors.color(number));
      row.classList.toggle("spread", !crop.kept[rank]);
      row.firstElementChild.classList.toggle("true", number === this.image.true_class);
      if (crop.other) this.addOther(row, crop.other.targets[rank]);
      return row;
    });
    if (crop.remainder !== null && crop.num_kept < data.num_classes) {
      const others = data.num_classes - crop.num_kept;
      const row = this.row(`${others} ${others === 1 ? "class" : "classes"} not kept, ${data.remainder}`, short(crop.remainder), crop.remainder, "var(--c-other)");
      row.classList.add("spread", "remainder");
      rows.push(row);
    } else {
      const rest = ({ targets }) => Math.max(0, 1 - total(targets));
      const row = this.row("all others", short(rest(crop)), rest(crop), "var(--c-other)");
      if (crop.other) this.addOther(row, rest(crop.other));
      if (crop.classes.length < data.num_classes) rows.push(row);
    }
    if (crop.other) rows.unshift(this.sides());
    return rows;
  }

  sides() {
    const row = make("li", "sides");
    const value = make("span", "value", "A");
    value.append(make("i", "", "B"));
    row.append(make("span", "name"), value);
    return row;
  }

  addOther(row, target) {
    const bar = make("div", "theirs");
    bar.style.width = `${100 * target}%`;
    row.querySelector(".bars").classList.add("two");
    row.querySelector(".bars").append(bar);
    row.querySelector(".value").append(make("i", "", short(target)));
  }

  choose(number) {
    this.chosen = number;
    this.show(number);
  }

  // The crop in which a point lies nearest to the middle.
  cropAt(event) {
    const frame = this.find(".crops").getBoundingClientRect();
    const [height, width] = this.image.padded_size;
    const [x, y] = [((event.clientX - frame.left) / frame.width) * width, ((event.clientY - frame.top) / frame.height) * height];
    let [best, least] = [null, 0.5];
    this.image.crops.forEach(({ crop: [top, left, high, wide] }, number) => {
      const off = Math.max(Math.abs(x - left - wide / 2) / wide, Math.abs(y - top - high / 2) / high);
      if (off < least) [best, least] = [number, off];
    });
    return best;
  }

  barAt(event) {
    const frame = this.find(".strip").getBoundingClientRect();
    const position = Math.floor(((event.clientX - frame.left) / frame.width) * this.order.length);
    return this.order[Math.max(0, Math.min(this.order.length - 1, position))];
  }

  listen() {
    this.find("img").addEventListener("load", () => {
      this.show(this.shown ?? this.chosen);
      this.drawField();
    }, { once: true });
    for (const [selector, crop] of [[".picture", (event) => this.cropAt(event)], [".strip", (event) => this.barAt(event)]]) {
      const element = this.find(selector);
      element.addEventListener("pointermove", (event) => this.show(crop(event) ?? this.chosen));
      element.addEventListener("pointerleave", () => this.show(this.chosen));
      element.addEventListener("click", (event) => {
        this.choose(crop(event) ?? this.chosen);
        this.find(".strip").focus({ preventScroll: true });
      });
    }
    this.find(".strip").addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    const last = this.order.length - 1;
    const position = this.order.indexOf(this.chosen);
    const there = { ArrowLeft: position - 1, ArrowRight: position + 1, Home: 0, End: last }[event.key];
    if (there !== undefined) this.choose(this.order[Math.max(0, Math.min(last, there))]);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") neighbour(this, event.key === "ArrowDown" ? 1 : -1)?.focus();
    else return;
    event.preventDefault();
  }

  focus() {
    this.element.scrollIntoView({ block: "center" });
    this.find(".strip").focus({ preventScroll: true });
  }
}

// A class's targets over the places of a crop of one size, over the picture: full colour is the largest target of any size.
function drawMap(canvas, pixels, { rows, columns }, targets, scale, most, color) {
  canvas.width = 240;
  canvas.height = Math.round((240 * pixels.naturalHeight) / pixels.naturalWidth);
  const context = canvas.getContext("2d");
  context.globalAlpha = 0.5;
  context.filter = "grayscale(1)";
  context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  const cells = make("canvas", "");
  [cells.width, cells.height] = [columns, rows];
  const cell = cells.getContext("2d");
  cell.fillStyle = color;
  targets.forEach((line, row) => line.forEach((target, column) => {
    cell.globalAlpha = target / most;
    cell.fillRect(column, row, 1, 1);
  }));
  // The middles of these crops lie between half a crop from one edge and half a crop from the other.
  const [wide, high] = [canvas.width * (1 - scale), canvas.height * (1 - scale)];
  context.globalAlpha = 1;
  context.drawImage(cells, (canvas.width - wide) / 2, (canvas.height - high) / 2, wide, high);
}

const cards = data.images.map((image) => new Card(image));
const list = document.getElementById("images");
const filter = document.getElementById("filter");
const sort = document.getElementById("sort");
const orders = {
  file: () => 0,
  unsure: (image) => -image.entropy,
  sure: (image) => image.entropy,
  disagreement: (image) => image.of_true_class ?? 2,
  distance: (image) => -(image.variation ?? -1),
};

function visible() {
  return [...list.children].filter((element) => !element.hidden);
}

function neighbour(card, step) {
  const shown = visible();
  const next = shown[shown.indexOf(card.element) + step];
  return cards.find(({ element }) => element === next);
}

function update() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const card of cards) card.element.hidden = !words.every((word) => card.text.includes(word));
  const count = cards.filter(({ element }) => !element.hidden).length;
  document.getElementById("count").textContent = `${count} of ${cards.length} images`;
}

function arrange() {
  const key = orders[sort.value];
  list.append(...[...cards].sort((one, other) => key(one.image) - key(other.image)).map(({ element }) => element));
}

filter.addEventListener("input", update);
sort.addEventListener("change", arrange);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== filter) {
    filter.focus();
    event.preventDefault();
  }
});
arrange();
update();
for (const card of cards) card.show(card.chosen);
