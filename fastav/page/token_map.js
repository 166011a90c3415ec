// Paints the token map from props.value (see fastav/page/view.py: token_map). Nothing but numbers and our own pictures
// reaches the page, through canvas and textContent.
const get = (name) => element.querySelector(name);
const images = new Map();

function image(address) {
  if (!images.has(address)) {
    const made = new Image();
    made.onload = draw;
    made.src = address;
    images.set(address, made);
  }
  return images.get(address);
}

function canvas(name, height) {
  const area = get(name);
  const width = area.clientWidth;
  const scale = window.devicePixelRatio || 1;
  area.style.height = height + "px";
  area.width = Math.round(width * scale);
  area.height = Math.round(height * scale);
  const pen = area.getContext("2d");
  pen.scale(scale, scale);
  return [pen, width];
}

function drawFrames(data, layer, color) {
  const count = data.frames.length;
  if (!count) return void canvas(".fa-frames", 0);
  const width = get(".fa-frames").clientWidth;
  const gap = width > 700 ? 10 : 6;
  const most = Math.min(count, Math.max(4, Math.floor(width / 130)));
  const across = Math.ceil(count / Math.ceil(count / most));  // rows of equal length
  const w = Math.min(240, (width - gap * (across - 1)) / across);
  const first = data.frames[0] && data.frames[0].picture ? image(data.frames[0].picture) : null;
  const h = first && first.naturalWidth ? (w * first.naturalHeight) / first.naturalWidth : w;
  const [pen] = canvas(".fa-frames", Math.ceil(count / across) * (h + gap) - gap);
  data.frames.forEach((frame, i) => {
    const x = (i % across) * (w + gap), y = Math.floor(i / across) * (h + gap);
    const picture = frame.picture && image(frame.picture);
    pen.fillStyle = color("--fa-video");
    if (picture && picture.complete && picture.naturalWidth) pen.drawImage(picture, x, y, w, h);
    else pen.fillRect(x, y, w, h);
    const cw = w / frame.cols, ch = h / frame.rows, line = Math.min(cw, ch) > 7 ? 1 : 0;
    for (let cell = 0; cell < frame.rows * frame.cols; cell++) {
      const cx = x + (cell % frame.cols) * cw, cy = y + Math.floor(cell / frame.cols) * ch;
      const gone = cell >= frame.seen.length || frame.seen[cell] <= layer;
      if (gone) {
        pen.globalAlpha = 0.93;
        pen.fillStyle = color("--fa-gone");
        pen.fillRect(cx, cy, cw, ch);
        pen.globalAlpha = 1;
      }
      if (line) {
        pen.strokeStyle = color("--fa-card");
        pen.lineWidth = line;
        pen.strokeRect(cx, cy, cw, ch);
      }
    }
  });
}

function drawAudio(data, layer, color) {
  const tokens = data.audio;
  const [pen, width] = canvas(".fa-audio", tokens.length ? 28 : 0);
  // One bar per token, or per pixel where tokens are narrower: then its strength is the share that is kept.
  const bars = Math.min(tokens.length, Math.floor(width / 2));
  const step = width / Math.max(1, bars);
  for (let bar = 0; bar < bars; bar++) {
    const from = Math.floor((bar * tokens.length) / bars), to = Math.floor(((bar + 1) * tokens.length) / bars);
    let kept = 0;
    for (let i = from; i < to; i++) kept += tokens[i] > layer;
    const w = step > 3 ? step - 1 : step;
    pen.fillStyle = color("--fa-gone");
    pen.fillRect(bar * step, 0, w, 28);
    pen.globalAlpha = kept / (to - from);
    pen.fillStyle = color("--fa-audio");
    pen.fillRect(bar * step, 0, w, 28);
    pen.globalAlpha = 1;
  }
}

function drawProfile(data, layer, color) {
  const height = 132, top = 18;
  const [pen, width] = canvas(".fa-profile", height);
  const most = Math.max(...data.lengths), step = width / data.lengths.length;
  const gap = step > 12 ? 3 : 1;
  data.lengths.forEach((length, l) => {
    let y = height;
    pen.globalAlpha = l === layer ? 1 : 0.38;
    for (const kind of ["text", "audio", "video"]) {
      const h = (((data.kinds[kind] || [])[l] || 0) / most) * (height - top);
      pen.fillStyle = color("--fa-" + kind);
      pen.fillRect(l * step, y - h, step - gap, h);
      y -= h;
    }
    pen.globalAlpha = 1;
    if (step > 34 || l === layer) {
      pen.fillStyle = color(l === layer ? "--fa-ink" : "--fa-soft");
      pen.font = (l === layer ? "600 " : "") + "12px system-ui, sans-serif";
      pen.textAlign = "center";
      pen.fillText(length, Math.min(width - 16, Math.max(16, l * step + (step - gap) / 2)), y - 5);
    }
  });
}

function draw() {
  const data = props.value;
  if (!data || !data.lengths) return;
  const slider = get("#fa-layer");
  const layer = Number(slider.value);
  const style = getComputedStyle(element);
  const color = (name) => style.getPropertyValue(name).trim();
  const share = (kind) => `${data.kinds[kind][layer]} of ${data.kinds[kind][0]}`;
  get(".fa-layer-number").textContent = layer;
  get(".fa-kept").textContent = `${data.lengths[layer]} of ${data.n_tokens} kept`;
  slider.setAttribute("aria-valuetext", `layer ${layer}, ${get(".fa-kept").textContent}`);
  const video = data.kinds.video, audio = data.kinds.audio;
  get(".fa-caption-video").textContent = video ? `Video tokens: ${share("video")} kept` : "No video tokens";
  get(".fa-caption-audio").textContent = audio ? `Audio tokens, in order of time: ${share("audio")} kept` : "No audio tokens";
  const full = data.lengths.filter((n) => n === data.lengths[0]).length;
  const each = Math.round(data.frames_each);
  const trimmed = data.n_tokens - data.lengths[0];
  get(".fa-note").textContent =
    (trimmed ? `${trimmed} padding tokens never enter the decoder. ` : "") +
    (full === data.lengths.length ? "No layer loses a token." : `Layers 0 to ${full - 1} see ${trimmed ? "all others" : "everything"}, layer ${full} is the first to see less.`) +
    (each > 1 ? ` Each picture stands for ${each} frames.` : "") +
    (video ? " Greyed squares were removed; the squares are laid evenly over each frame." : "");
  drawFrames(data, layer, color);
  drawAudio(data, layer, color);
  drawProfile(data, layer, color);
}

function fresh() {
  if (!props.value || !props.value.lengths) return;
  const slider = get("#fa-layer");
  slider.max = props.value.lengths.length - 1;
  slider.value = slider.max;
  draw();
}

// On `element`: its content is made anew whenever the value changes.
element.addEventListener("input", (event) => event.target.id === "fa-layer" && draw());
element.addEventListener("click", (event) => {
  if (!event.target.classList.contains("fa-profile") || !props.value) return;
  const box = event.target.getBoundingClientRect();
  get("#fa-layer").value = Math.floor(((event.clientX - box.left) / box.width) * props.value.lengths.length);
  draw();
});
new ResizeObserver(draw).observe(element);
new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
watch("value", fresh);
fresh();
