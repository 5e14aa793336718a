// Three linked planes of some volumes. Reads the JSON that `reports/viewer.py` writes; asks nothing of any network.
"use strict";
(() => {
  const NAMES = ["sagittal", "coronal", "axial"];
  const ACROSS = [1, 0, 0], DOWN = [2, 2, 1]; // voxel axes of a plane: to the right, and downwards
  const LETTERS = [["A", "P"], ["R", "L"], ["R", "L"]];
  const MAXIMUM_ZOOM = 8;

  const element = (parent, tag, properties = {}) =>
    parent.appendChild(Object.assign(document.createElement(tag), properties));
  const between = (value, low, high) => Math.min(high, Math.max(low, value));
  const shown = (value, span) => value.toFixed(span >= 100 ? 0 : span >= 10 ? 1 : 3);

  // The levels 0..255 of a sheet, I fastest, then J, then K.
  async function levels(source, [I, J, K], columns) {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = J;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const voxels = new Uint8Array(I * J * K);
    for (let row = 0; row * columns < K; row++) { // row by row: phones limit the size of a canvas
      context.drawImage(image, 0, -row * J);
      const pixels = context.getImageData(0, 0, image.width, J).data;
      for (let column = 0; column < columns && row * columns + column < K; column++) {
        for (let j = 0; j < J; j++) {
          const from = j * image.width + column * I, to = ((row * columns + column) * J + j) * I;
          for (let i = 0; i < I; i++) voxels[to + i] = pixels[4 * (from + i)];
        }
      }
    }
    return voxels;
  }

  class Viewer {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector("script").textContent);
      this.layers = this.data.layers;
      this.at = this.data.shape.map(n => Math.floor(n / 2));
      this.zoom = 1;
      this.now = Math.max(0, this.layers.findIndex(layer => layer.kind === "synthetic"));
      this.before = this.now ? 0 : Math.min(1, this.layers.length - 1); // what the space bar goes back to
      const truth = this.layers.findIndex(layer => layer.kind === "reference");
      if (truth >= 0) this.before = truth;
      this.overlay = -1;
    }

    async start() {
      const { shape, columns } = this.data;
      for (const layer of this.layers) layer.voxels = await levels(layer.sheet, shape, columns);
      this.build();
      this.draw();
      this.root.dataset.ready = "yes";
    }

    build() {
      const bar = element(this.root, "div", { className: "bar" });
      this.buttons = this.layers.map((layer, index) => {
        const button = element(bar, "button", { type: "button", textContent: layer.title, title: `key ${index + 1}` });
        button.classList.toggle("synthetic", layer.kind === "synthetic");
        button.onclick = () => this.show(index);
        return button;
      });
      const maps = this.layers.map((layer, index) => [layer, index]).filter(([layer]) => layer.colours);
      if (maps.length) {
        this.choice = element(bar, "select", { title: "laid over the image (key o)", ariaLabel: "overlay" });
        element(this.choice, "option", { value: -1, textContent: "no overlay" });
        for (const [layer, index] of maps) element(this.choice, "option", { value: index, textContent: `+ ${layer.title}` });
        this.choice.onchange = () => { this.overlay = Number(this.choice.value); this.draw(); };
      }
      const colours = element(bar, "span");
      this.low = element(colours, "span");
      this.scale = element(colours, "span", { className: "scale" });
      this.high = element(colours, "span");
      this.colours = colours;
      for (const [text, factor] of [["\u2212", 0.8], ["+", 1.25]]) {
        element(bar, "button", { type: "button", textContent: text, title: "zoom" }).onclick = () => this.magnify(factor);
      }
      const planes = element(this.root, "div", { className: "planes" });
      this.planes = [2, 1, 0].map(axis => this.plane(planes, axis));
      this.values = element(this.root, "div", { className: "values", ariaLive: "off" });
      element(this.root, "p", {
        className: "help",
        textContent: "Click or drag: crosshair. Wheel, slider or arrow keys: slices. 1 to 9: volume. Space: the volume before. "
          + "O: overlay. + and \u2212: zoom.",
      });
      this.root.onkeydown = event => this.key(event);
      addEventListener("resize", () => this.draw());
    }

    plane(parent, axis) {
      const box = element(parent, "div", { className: "plane" });
      const canvas = element(box, "canvas", { ariaLabel: `${NAMES[axis]} plane` });
      const mark = element(box, "span", { className: "mark" });
      const name = element(box, "span", { className: "name" });
      const slider = element(box, "input", {
        type: "range", min: 0, max: this.data.shape[axis] - 1, ariaLabel: `${NAMES[axis]} slice`,
      });
      slider.oninput = () => this.move(axis, Number(slider.value));
      slider.onkeydown = event => event.stopPropagation();
      const drag = event => {
        const frame = canvas.getBoundingClientRect(), view = this.view(axis);
        const x = view.x + view.width * (event.clientX - frame.left) / frame.width;
        const y = view.y + view.height * (event.clientY - frame.top) / frame.height;
        const [across, down] = [ACROSS[axis], DOWN[axis]];
        this.at[across] = between(Math.floor(x), 0, this.data.shape[across] - 1);
        const row = between(Math.floor(y), 0, this.data.shape[down] - 1);
        this.at[down] = axis === 2 ? row : this.data.shape[down] - 1 - row;
        this.draw();
      };
      canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); this.held = this.view(axis); drag(event); };
      canvas.onpointermove = event => { if (event.buttons) drag(event); };
      canvas.onpointerup = canvas.onpointercancel = () => { this.held = null; this.draw(); };
      canvas.addEventListener("wheel", event => {
        event.preventDefault();
        if (event.ctrlKey) this.magnify(event.deltaY < 0 ? 1.1 : 1 / 1.1);
        else this.move(axis, this.at[axis] - Math.sign(event.deltaY));
      }, { passive: false });
      return { axis, canvas, mark, name, slider, image: document.createElement("canvas") };
    }

    // The part of a plane that is seen, in voxels: all of it, or when magnified what is around the crosshair.
    view(axis) {
      if (this.held) return this.held;
      const [wide, high] = [ACROSS[axis], DOWN[axis]].map(a => this.data.shape[a]);
      const [width, height] = [wide / this.zoom, high / this.zoom];
      const row = axis === 2 ? this.at[1] : high - 1 - this.at[2];
      return {
        x: between(this.at[ACROSS[axis]] + 0.5 - width / 2, 0, wide - width),
        y: between(row + 0.5 - height / 2, 0, high - height),
        width, height,
      };
    }

    move(axis, index) {
      this.at[axis] = between(index, 0, this.data.shape[axis] - 1);
      this.draw();
    }

    show(index) {
      if (index === this.now) return;
      [this.before, this.now] = [this.now, index];
      this.draw();
    }

    magnify(factor) {
      this.zoom = between(this.zoom * factor, 1, MAXIMUM_ZOOM);
      this.draw();
    }

    key(event) {
      const step = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      const aside = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const digit = Number(event.key);
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === " " && event.target.tagName === "BUTTON") event.target.blur();
      if (step) this.move(2, this.at[2] + step);
      else if (aside) this.move(0, this.at[0] + aside);
      else if (digit >= 1 && digit <= this.layers.length) this.show(digit - 1);
      else if (event.key === " ") this.show(this.before);
      else if (event.key === "+" || event.key === "=") this.magnify(1.25);
      else if (event.key === "-") this.magnify(0.8);
      else if (event.key.toLowerCase() === "o" && this.choice) {
        this.choice.selectedIndex = (this.choice.selectedIndex + 1) % this.choice.options.length;
        this.choice.onchange();
      } else return;
      event.preventDefault();
      this.root.focus();
    }

    level(layer, [i, j, k]) {
      const [I, J] = this.data.shape;
      return layer.voxels[(k * J + j) * I + i];
    }

    value(layer) {
      return layer.low + (layer.high - layer.low) * this.level(layer, this.at) / 255;
    }

    draw() {
      const layer = this.layers[this.now], over = this.layers[this.overlay];
      this.root.classList.toggle("synthetic", layer.kind === "synthetic");
      this.buttons.forEach((button, index) => button.setAttribute("aria-pressed", index === this.now));
      const coloured = layer.colours ? layer : over;
      this.colours.hidden = !coloured;
      if (coloured) {
        const stops = [0, 64, 128, 192, 255].map(n => `rgb(${coloured.colours[n]})`);
        this.scale.style.background = `linear-gradient(to right, ${stops})`;
        const span = coloured.high - coloured.low;
        this.low.textContent = `${shown(coloured.low, span)} `;
        this.high.textContent = ` ${shown(coloured.high, span)}`;
      }
      for (const plane of this.planes) this.paint(plane, layer, layer.colours ? undefined : over);
      this.tell();
    }

    paint({ axis, canvas, mark, name, slider, image }, layer, over) {
      const { shape, spacing, first } = this.data, [across, down] = [ACROSS[axis], DOWN[axis]];
      const [wide, high] = [shape[across], shape[down]];
      image.width = wide;
      image.height = high;
      const pixels = new ImageData(wide, high), point = [0, 0, 0];
      point[axis] = this.at[axis];
      for (let row = 0; row < high; row++) {
        point[down] = axis === 2 ? row : high - 1 - row; // superior is on top of sagittal and coronal planes
        for (let column = 0; column < wide; column++) {
          point[across] = column;
          const level = this.level(layer, point), to = 4 * (row * wide + column);
          let colour = layer.colours ? layer.colours[level] : [level, level, level];
          if (over) {
            const strength = this.level(over, point), share = Math.min(1, strength / 96), map = over.colours[strength];
            colour = colour.map((c, n) => c + share * (map[n] - c));
          }
          pixels.data.set(colour, to);
          pixels.data[to + 3] = 255;
        }
      }
      image.getContext("2d").putImageData(pixels, 0, 0);

      const dense = Math.min(2, devicePixelRatio || 1), width = Math.round(canvas.clientWidth * dense);
      const view = this.view(axis);
      canvas.width = width;
      canvas.height = Math.round(width * high * spacing[down] / (wide * spacing[across]));
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = this.zoom < 3;
      context.drawImage(image, view.x, view.y, view.width, view.height, 0, 0, canvas.width, canvas.height);
      const x = (this.at[across] + 0.5 - view.x) / view.width * canvas.width;
      const row = axis === 2 ? this.at[down] : high - 1 - this.at[down];
      const y = (row + 0.5 - view.y) / view.height * canvas.height, gap = 8 * dense;
      context.strokeStyle = "rgba(120, 200, 255, .75)";
      context.lineWidth = dense;
      context.beginPath();
      for (const [a, b] of [[0, x - gap], [x + gap, canvas.width]]) { context.moveTo(a, y); context.lineTo(Math.max(a, b), y); }
      for (const [a, b] of [[0, y - gap], [y + gap, canvas.height]]) { context.moveTo(x, a); context.lineTo(x, Math.max(a, b)); }
      context.stroke();
      context.fillStyle = "#e8e8e8";
      context.font = `${12 * dense}px sans-serif`;
      context.textBaseline = "top";
      context.fillText(LETTERS[axis][0], 4 * dense, 4 * dense);
      context.textAlign = "right";
      context.fillText(LETTERS[axis][1], canvas.width - 4 * dense, 4 * dense);
      mark.textContent = layer.kind === "synthetic" ? "SYNTHETIC" : "";
      name.textContent = `${NAMES[axis]} ${this.at[axis] + first[axis]}`;
      slider.value = this.at[axis];
    }

    tell() {
      this.values.replaceChildren();
      const place = element(this.values, "span");
      element(place, "span", { textContent: "voxel (L, P, S)" });
      element(place, "b", { textContent: this.at.map((n, axis) => n + this.data.first[axis]).join(", ") });
      for (const layer of this.layers) {
        const level = this.level(layer, this.at), line = element(this.values, "span");
        element(line, "span", { textContent: layer.title });
        const value = shown(this.value(layer), layer.high - layer.low);
        element(line, "b", { className: "value", textContent: level === 255 ? `\u2265 ${value}` : value });
      }
    }
  }

  window.mrsynthViewers = [...document.querySelectorAll(".viewer")].map(root => new Viewer(root));
  for (const viewer of window.mrsynthViewers) {
    viewer.start().catch(() => element(viewer.root, "p", { textContent: "This browser cannot show the viewer; the pictures of the report show the same." }));
  }
})();
