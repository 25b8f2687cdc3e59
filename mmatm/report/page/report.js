'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const main = document.getElementById('main');
const isDetection = data.task === 'detection';
const isSegmentation = data.task === 'segmentation';
const LEVELS = data.levels;
const state = { level: data.start, kind: 0, boxes: true, masks: true, labels: true, mistakes: false, group: 'worst', label: -1 };
const parts = []; // functions that redraw what depends on the state

// ---------------------------------------------------------------- elements and numbers

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

const fixed = (value, digits = 3) => (value === null || !isFinite(value) ? '–' : value.toFixed(digits));
const count = (value) => value.toLocaleString('en-US');
const brief = (value) =>
  value < 1e5 ? count(value) : new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 }).format(value);
function percent(value) {
  if (value === null || !isFinite(value)) return '–';
  if (value > 0 && value < 0.005) return '<1 %';
  return `${(100 * value).toFixed(value > 0.995 && value < 1 ? 1 : 0)} %`;
}
const SINGULAR = { boxes: 'box' };
const plural = (n, word) => `${count(n)} ${n === 1 ? SINGULAR[word] || word.slice(0, -1) : word}`;
const sum = (values) => values.reduce((a, b) => a + b, 0);
const kind = () => data.kinds[state.kind];
const threshold = () => (state.level / LEVELS).toFixed(2);
const name = (label) => data.classes[label];
const narrow = matchMedia('(max-width: 760px)').matches;
/** Text that may break after underscores. */
const breakable = (text) => text.split(/(?<=_)/).flatMap((part, i) => (i ? [h('wbr'), part] : [part]));
const swatch = (label) => h('i', { class: 'swatch', style: `background:${data.colours[label]}` });

function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? '#000' : '#fff';
}

/** Precision, recall and F1 of one class, or of all of them together, at the threshold. */
function scores(label = null, level = state.level, of = kind()) {
  const at = (table) => (label === null ? sum(table.map((row) => row[level])) : table[label][level]);
  const right = at(of.right);
  const wrong = at(of.wrong);
  const all = label === null ? sum(of.positives) : of.positives[label];
  return {
    right, wrong, all,
    precision: right + wrong ? right / (right + wrong) : NaN,
    recall: all ? right / all : NaN,
    f1: right + wrong + all ? (2 * right) / (right + wrong + all) : NaN,
  };
}

/** Number of predictions per pair of classes at the threshold: truth -> prediction -> count. */
function confusion() {
  const size = data.classes.length + 1; // the last one is the background
  const table = Array.from({ length: size }, () => new Array(size).fill(0));
  for (const [truth, found, ...counts] of kind().mixed) {
    for (let i = 0; i < counts.length; i += 2) {
      if (counts[i] >= state.level) table[truth][found] += counts[i + 1];
    }
  }
  kind().positives.forEach((all, label) => { table[label][size - 1] = Math.max(all - sum(table[label]), 0); });
  return table;
}

// ---------------------------------------------------------------- charts

function ticks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}
const short = (value) => {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e4) return brief(value);
  return size < 1e-4 ? value.toExponential(1).replace('.0e', 'e') : String(+value.toPrecision(4));
};

/** Axes with ticks; what is drawn on them goes to `plot`. */
function axes({ width, height, x, y, xName, yName, label }) {
  const box = { left: 54, right: width - 12, top: 12, bottom: height - 38 };
  const px = (v) => box.left + ((v - x[0]) / (x[1] - x[0] || 1)) * (box.right - box.left);
  const py = (v) => box.bottom - ((v - y[0]) / (y[1] - y[0] || 1)) * (box.bottom - box.top);
  const svg = s('svg', { class: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
  for (const t of ticks(...y)) {
    svg.append(s('line', { class: 'rule', x1: box.left, x2: box.right, y1: py(t), y2: py(t) }));
    svg.append(s('text', { x: box.left - 8, y: py(t) + 4, 'text-anchor': 'end' }, short(t)));
  }
  for (const t of ticks(...x).filter((v) => xName !== 'epoch' || Number.isInteger(v))) svg.append(s('text', { x: px(t), y: box.bottom + 18, 'text-anchor': 'middle' }, short(t)));
  svg.append(s('line', { class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  svg.append(s('text', { x: (box.left + box.right) / 2, y: height - 4, 'text-anchor': 'middle' }, xName));
  if (yName) svg.append(s('text', { transform: `translate(11 ${(box.top + box.bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle' }, yName));
  const plot = s('g');
  svg.append(plot);
  return { svg, plot, px, py, box };
}
const line = (points, px, py) => points.map(([x, y], i) => `${i ? 'L' : 'M'}${px(x).toFixed(1)},${py(y).toFixed(1)}`).join('');

// ---------------------------------------------------------------- top of the page

function hero() {
  const lead = data.facts.Model[0][1];
  const [best, ...others] = data.headlines;
  const shown = best ? [best, ...others.slice(0, 3)] : [];
  const numbers = shown.map(([label, value]) => h('div', {}, h('b', {}, value > 1 ? value.toFixed(2) : value.toFixed(3)), h('span', {}, label)));
  const all = scores(null);
  if (isDetection) numbers.push(h('div', {}, h('b', {}, `${count(all.right)} of ${count(all.all)}`), h('span', {}, `objects found at threshold ${threshold()}`)));
  const section = h('section', { class: 'hero', id: 'summary' },
    h('p', { class: 'kicker' }, data.kicker),
    h('h1', {}, breakable(data.title)),
    h('p', { class: 'lead' }, `${lead}, ${data.sentence}`),
    h('div', { class: 'numbers' }, numbers));
  const points = insights();
  if (points.length) section.append(h('ul', { class: 'insights', 'aria-label': 'What stands out' }, points.map((text) => h('li', {}, text))));
  for (const problem of data.history.problems) section.append(h('p', { class: 'warning' }, `Note: ${problem}.`));
  return section;
}

/** What stands out at the threshold that the page starts with. */
function insights() {
  const found = [];
  const column = kind().columns[0];
  const known = data.classes.map((_, i) => i).filter((i) => column.values[i] !== null && kind().positives[i]);
  if (known.length > 2) {
    known.sort((a, b) => column.values[a] - column.values[b]);
    const [worst, best] = [known[0], known[known.length - 1]];
    const highest = fixed(column.values[best]);
    found.push(Number(highest) ? `${name(best)} does best (${column.name} ${highest}), ${name(worst)} worst (${fixed(column.values[worst])}).` : `No class has a ${column.name} above 0.`);
  }
  const mixed = mixUps()[0];
  if (mixed && mixed.n) found.push(`The most frequent mix-up: ${describe(mixed)}.`);
  if (isDetection) {
    const all = scores();
    const missed = all.all - all.right;
    if (missed + all.wrong > 0) found.push(`At threshold ${threshold()}, ${plural(missed, 'objects')} of ${count(all.all)} ${missed === 1 ? 'is' : 'are'} missed or misnamed and ${plural(all.wrong, kind().name)} ${all.wrong === 1 ? 'is' : 'are'} wrong.`);
  }
  const sizes = kind().sizes.filter((size) => size.total >= 10);
  if (sizes.length > 1) {
    const share = (size) => size.found[state.level] / size.total;
    const worst = sizes.reduce((a, b) => (share(b) < share(a) ? b : a));
    if (share(worst) < 0.95) found.push(`Sizes found least: ${worst.name}, ${percent(share(worst))} of ${count(worst.total)}.`);
  }
  if (data.tested < 50) found.push(`${data.tested === 1 ? 'One test image says' : `${data.tested} test images say`} little: expect other numbers on others.`);
  const absent = data.classes.filter((_, i) => !kind().positives[i]);
  if (absent.length) found.push(`The test set shows no ${absent.slice(0, 5).join(', ')}${absent.length > 5 ? ` and ${absent.length - 5} other classes` : ''}, so nothing can be said about ${absent.length > 1 ? 'them' : 'it'}.`);
  return found;
}

const toShare = (mixed) => (isSegmentation ? `${percent(mixed.n / kind().positives[mixed.truth])} of its pixels` : plural(mixed.n, isDetection ? 'times' : 'images'));
const describe = (mixed) => `${name(mixed.truth)} taken for ${name(mixed.found)}, ${toShare(mixed)}`;

/** Pairs of classes that are mixed up, most frequent first; for pixels, by their share of the class. */
function mixUps(table = confusion()) {
  const pairs = [];
  data.classes.forEach((_, truth) => data.classes.forEach((__, found) => {
    if (truth !== found && table[truth][found]) pairs.push({ truth, found, n: table[truth][found] });
  }));
  const weight = (pair) => (isSegmentation ? pair.n / kind().positives[pair.truth] : pair.n);
  return pairs.sort((a, b) => weight(b) - weight(a));
}

// ---------------------------------------------------------------- threshold

function radios(legend, id, options, key) {
  return h('span', { class: 'switch', role: 'radiogroup', 'aria-label': legend }, options.map(([value, text]) =>
    h('label', {}, h('input', { type: 'radio', name: id, value, checked: state[key] === value, onchange: () => { state[key] = value; update(); } }), h('span', {}, text))));
}

/** The slider, on the page and in the dialog; `show` puts the state into it. */
function slider(id) {
  const shown = h('output', { for: id });
  const input = h('input', {
    type: 'range', id, min: 0, max: LEVELS, step: 1, value: state.level,
    oninput: () => { state.level = +input.value; schedule(); },
  });
  const label = isDetection ? 'Score threshold' : 'Confidence threshold';
  return {
    element: h('div', { class: 'slider' }, h('label', { for: id }, label), input, shown),
    show() {
      input.value = state.level;
      shown.textContent = threshold();
      input.setAttribute('aria-valuetext', threshold());
    },
  };
}

/** Switches of what is drawn on the images. */
function switches() {
  const hasMasks = isSegmentation || (isDetection && data.images.some((i) => [...i.found, ...i.truth].some((o) => o.mask)));
  const wanted = [
    isDetection && ['boxes', 'Boxes'], hasMasks && ['masks', isSegmentation ? 'Classes' : 'Masks'],
    data.task !== 'classification' && ['labels', isSegmentation ? 'Names' : 'Labels'],
    data.task !== 'classification' && ['mistakes', 'Mistakes only'],
  ].filter(Boolean).map(([key, text]) => {
    const input = h('input', { type: 'checkbox', onchange: () => { state[key] = input.checked; update(); } });
    return { element: h('label', {}, input, text), show() { input.checked = state[key]; } };
  });
  return { elements: wanted.map((one) => one.element), show() { wanted.forEach((one) => one.show()); } };
}

function bar() {
  const stats = h('div', { class: 'stats', role: 'status' });
  const threshold_ = slider('threshold');
  parts.push(() => {
    threshold_.show();
    const all = scores();
    const stat = (id, value, text) => h('span', {}, h('b', { id }, value), text);
    const drawn = isDetection ? sum(data.images.filter(isShown).map((image) => visible(image).length)) : 0;
    stats.replaceChildren(
      stat('precision', fixed(all.precision), 'precision'),
      stat('recall', fixed(all.recall), 'recall'),
      stat('f1', fixed(all.f1), 'F1'),
      ...(isDetection ? [stat('drawn', count(drawn), [drawn === 1 ? 'box' : 'boxes', h('span', { class: 'wide' }, ' on the images below')])] : []));
  });
  return h('div', { class: 'bar' },
    threshold_.element,
    data.kinds.length > 1 ? radios('Count', 'kind', data.kinds.map((k, i) => [i, k.name]), 'kind') : null,
    stats);
}

// ---------------------------------------------------------------- images

const visible = (image) => image.found.filter((o) => o.levels[state.kind] >= state.level && (state.label < 0 || o.label === state.label));
const isShown = (image) => state.group === 'all' || state.group === image.group;
const isFound = (o) => o.levels[state.kind] >= state.level;

function gallery() {
  if (!data.images.length) return null;
  const tools = switches();
  parts.push(tools.show);
  const cards = data.images.map((image, index) => {
    const view = makeView(image);
    const about = h('span');
    const card = h('article', { class: 'card shot' },
      h('button', { type: 'button', class: 'open', 'aria-label': `Enlarge ${image.name}`, onclick: () => enlarge(index) }, view.element),
      ...view.extra,
      h('div', { class: 'what' }, h('b', {}, breakable(image.name)), about));
    parts.push(() => {
      card.hidden = !isShown(image);
      view.update();
      about.textContent = view.about();
    });
    return card;
  });
  const select = h('select', { id: 'class', onchange: (e) => { state.label = +e.target.value; update(); } },
    h('option', { value: -1 }, 'all classes'), data.classes.map((text, i) => h('option', { value: i }, text)));
  return h('section', { id: 'images' },
    h('h2', {}, 'Images'),
    h('p', { class: 'lead' }, {
      detection: `The test images it does worst and best on, by F1 at threshold ${threshold()}${scores().right ? ', where F1 is highest' : ''}. Dashed: a detection that is wrong, or an object that is missed (IoU below ${data.iou}).`,
      segmentation: 'The test images it does worst and best on, by IoU. Pixels below the threshold stay grey.',
      classification: 'The images it gets wrong with the most confidence, and right. Below the threshold it is not sure.',
    }[data.task]),
    h('div', { class: 'tools' },
      radios('Which images', 'group', [['worst', 'Worst'], ['best', 'Best'], ['all', 'Both']], 'group'),
      tools.elements,
      isDetection ? h('label', { for: 'class' }, 'Show ', select) : null),
    h('div', { class: `gallery ${data.task}` }, cards));
}

function makeView(image) {
  return { detection: detectionView, segmentation: segmentationView, classification: classificationView }[data.task](image);
}

function frame(image, ...overlays) {
  return h('div', { class: 'frame', style: `aspect-ratio:${image.width}/${image.height}` }, h('img', { src: image.src, alt: '', decoding: 'async' }), overlays);
}
const pane = (text, content) => h('figure', { class: 'pane' }, content, h('figcaption', {}, text));

function tag(label, text, x, y, inside) {
  const colour = data.colours[label];
  const side = x > 0.62 ? `right:${(100 * (1 - x)).toFixed(2)}%` : `left:${(100 * x).toFixed(2)}%`;
  return h('span', { class: 'tag', style: `${side};top:${(100 * y).toFixed(2)}%;background:${colour};color:${inkOn(colour)}${inside ? '' : ';transform:translateY(-100%)'}` }, text);
}

function detectionView(image) {
  const draw = (objects) => {
    const svg = s('svg', { viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    const labels = h('div', { 'aria-hidden': 'true' });
    const drawn = objects.map((object) => {
      const [x, y, width, height] = object.box;
      const stroke = data.colours[object.label];
      const at = { x, y, width, height };
      const mask = object.mask ? s('path', { class: 'mask', d: object.mask, stroke, fill: stroke }) : null;
      const box = s('g', {}, s('rect', { class: 'halo', ...at }), s('rect', { class: 'shape', stroke, ...at }));
      const text = 'score' in object ? `${name(object.label)} ${(Math.floor(object.score * 100) / 100).toFixed(2)}` : name(object.label);
      const right = x / image.width > 0.62 ? x + width : x;
      const label = tag(object.label, text, right / image.width, Math.max(y, 0) / image.height, y / image.height < 0.09);
      svg.append(...[mask, box].filter(Boolean));
      labels.append(label);
      return { object, mask, box, label };
    });
    return { frame: frame(image, svg, labels), drawn };
  };
  const truth = draw(image.truth.filter((o) => !o.crowd));
  // Higher scores lie on top.
  const found = draw([...image.found].reverse());
  const show = ({ object, mask, box, label }, shown, wrong) => {
    shown = shown && (state.label < 0 || object.label === state.label) && (wrong || !state.mistakes);
    if (mask) { mask.toggleAttribute('hidden', !(shown && state.masks)); mask.classList.toggle('off', wrong); }
    box.toggleAttribute('hidden', !(shown && state.boxes));
    box.lastChild.classList.toggle('off', wrong);
    label.hidden = !(shown && state.labels);
  };
  return {
    element: h('div', { class: 'panes' }, pane('found', found.frame), pane('ground truth', truth.frame)),
    extra: [],
    update() {
      for (const item of found.drawn) show(item, item.object.levels[state.kind] >= state.level, item.object.right[state.kind] === 0);
      for (const item of truth.drawn) show(item, true, !isFound(item.object));
    },
    about() {
      const all = visible(image);
      const wrong = all.filter((o) => o.right[state.kind] === 0).length;
      const missed = image.truth.filter((o) => !o.crowd && !isFound(o) && (state.label < 0 || o.label === state.label)).length;
      return `${count(all.length)} found, ${count(wrong)} wrong, ${count(missed)} missed`;
    },
  };
}

function segmentationView(image) {
  const palette = image.present.map((label) => [1, 3, 5].map((i) => parseInt(data.colours[label].slice(i, i + 2), 16)));
  const side = (which) => {
    const canvas = h('canvas', { width: 1, height: 1, 'aria-hidden': 'true' });
    const names = h('div', { 'aria-hidden': 'true' }, image.names[which].map(([label, x, y]) => {
      const element = tag(label, name(label), 0, 0, true);
      element.style.cssText += `;left:${100 * x}%;top:${100 * y}%;right:auto;transform:translate(-50%,-50%)`;
      return element;
    }));
    return { canvas, names, frame: frame(image, canvas, names) };
  };
  const [truth, found] = [side(0), side(1)];
  let pixels = null;
  let labelled = 1;
  const map = new Image();
  map.onload = () => {
    for (const { canvas } of [truth, found]) { canvas.width = map.naturalWidth; canvas.height = map.naturalHeight; }
    const context = h('canvas', { width: map.naturalWidth, height: map.naturalHeight }).getContext('2d', { willReadFrequently: true });
    context.drawImage(map, 0, 0);
    pixels = context.getImageData(0, 0, map.naturalWidth, map.naturalHeight).data;
    schedule();
  };
  map.src = image.map;
  const paint = (target, of) => {
    const context = target.canvas.getContext('2d');
    const drawn = context.createImageData(target.canvas.width, target.canvas.height);
    for (let i = 0; i < pixels.length; i += 4) {
      const label = pixels[i + of];
      const [found_, level, truth_] = [pixels[i], pixels[i + 1], pixels[i + 2]];
      if (label === 255 || (of === 0 && level < state.level)) continue;
      if (state.mistakes && (truth_ === 255 || (truth_ === found_ && level >= state.level))) continue;
      drawn.data.set(palette[label], i);
      drawn.data[i + 3] = 165;
    }
    context.putImageData(drawn, 0, 0);
  };
  return {
    element: h('div', { class: 'panes' }, pane('predicted', found.frame), pane('ground truth', truth.frame)),
    extra: [],
    update() {
      if (pixels) {
        paint(found, 0);
        paint(truth, 2);
        let above = 0;
        for (let i = 1; i < pixels.length; i += 4) above += pixels[i] >= state.level;
        labelled = above / (pixels.length / 4);
      }
      for (const one of [truth, found]) {
        one.canvas.hidden = !state.masks;
        one.frame.classList.toggle('grey', state.masks);
        one.names.hidden = !state.labels || state.mistakes;
      }
    },
    about: () => `IoU ${fixed(image.iou, 2)}, ${percent(labelled)} labelled`,
  };
}

function classificationView(image) {
  const list = h('ul', { class: 'guesses' }, image.guesses.map(([label, score]) =>
    h('li', { class: label === image.truth ? 'true' : '' }, h('i', { style: `width:${100 * score}%` }), h('span', {}, label === image.truth ? '✓ ' : '', name(label)), h('span', {}, score.toFixed(2)))));
  return {
    element: h('div', { class: 'panes single' }, frame(image)),
    extra: [list],
    update() { list.classList.toggle('unsure', image.level < state.level); },
    about() {
      if (image.level < state.level) return `not sure; is ${name(image.truth)}`;
      return image.guesses[0][0] === image.truth ? `right: ${name(image.truth)}` : `wrong: is ${name(image.truth)}`;
    },
  };
}

const dialog = document.getElementById('dialog');
let enlarged = null;

function enlarge(index) {
  const image = data.images[index];
  const view = makeView(image);
  const about = h('p', { class: 'what' });
  const [threshold_, tools] = [slider('threshold-enlarged'), switches()];
  const shown = data.images.map((_, i) => i).filter((i) => isShown(data.images[i]));
  const step = (by) => enlarge(shown[(shown.indexOf(index) + by + shown.length) % shown.length]);
  const button = (text, label, onclick) => h('button', { type: 'button', class: 'quiet', 'aria-label': label, onclick }, text);
  const close = button('Close', 'Close', () => dialog.close());
  dialog.replaceChildren(
    h('div', { class: 'head' }, h('b', {}, breakable(image.name)), button('←', 'Previous image', () => step(-1)), button('→', 'Next image', () => step(1)), close),
    h('div', { class: 'tools' }, threshold_.element, tools.elements),
    view.element, ...view.extra, about);
  enlarged = {
    step,
    update() {
      threshold_.show();
      tools.show();
      view.update();
      about.textContent = view.about();
    },
  };
  enlarged.update();
  if (!dialog.open) dialog.showModal();
  const at = document.activeElement;
  if (!dialog.contains(at) || at === dialog) close.focus();
}
dialog.addEventListener('keydown', (event) => {
  if (event.target.type === 'range') return; // arrows move the threshold
  if (event.key === 'ArrowLeft') enlarged.step(-1);
  if (event.key === 'ArrowRight') enlarged.step(1);
});
dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener('close', () => { enlarged = null; });

// ---------------------------------------------------------------- precision and recall

function precisionRecall() {
  const chart = axes({ width: narrow ? 380 : 620, height: narrow ? 320 : 430, x: [0, 1], y: [0, 1], xName: 'recall', yName: 'precision', label: 'Precision over recall, one curve per class' });
  let picked = null;
  const draw = () => {
    chart.plot.replaceChildren(...data.classes.map((_, label) => {
      const group = s('g', { class: picked !== null && picked !== label ? 'faint' : '' });
      const [recall, precision] = kind().curves[label];
      const points = recall.map((r, i) => [r, precision[i]]).filter(([, p]) => p !== null);
      const end = points.findIndex(([, p], i) => i && p === 0);
      if (end > 0) points.length = end + 1;
      const d = line(points, chart.px, chart.py);
      const stroke = data.colours[label];
      group.append(s('path', { class: 'under', d }), s('path', { class: 'curve', d, stroke }));
      const now = scores(label);
      if (isFinite(now.precision) && isFinite(now.recall)) {
        group.append(s('circle', { cx: chart.px(now.recall), cy: chart.py(now.precision), r: 5, fill: stroke, stroke: 'var(--ink)', 'stroke-width': 1.5 }));
      }
      return group;
    }));
  };
  const pick = (label) => () => { picked = label; draw(); };
  const values = data.classes.map(() => h('b'));
  const list = h('ul', { class: 'legend classes' }, data.classes.map((text, label) =>
    h('li', {}, h('button', { type: 'button', onmouseenter: pick(label), onmouseleave: pick(null), onfocus: pick(label), onblur: pick(null) },
      swatch(label), text, values[label]))));
  const heading = h('h3');
  parts.push(() => {
    draw();
    const column = kind().columns.find((c) => c.name === 'AP50') || kind().columns[0];
    heading.textContent = `${column.name} per class`;
    values.forEach((value, label) => { value.textContent = fixed(column.values[label]); });
  });
  return h('section', { id: 'curves' },
    h('h2', {}, 'Precision and recall'),
    h('p', { class: 'lead' }, {
      detection: `COCO’s curves at an IoU of ${data.iou}; the area below one is the class’s AP${Math.round(100 * data.iou)}. The dots are where the threshold puts each class.`,
      segmentation: 'Of the pixels whose class is at least as sure as the threshold; a curve ends where every pixel gets its likeliest class. The dots are where the threshold puts each class.',
      classification: 'Each class against all others. The dots count the likeliest class of each image, if it reaches the threshold.',
    }[data.task]),
    h('div', { class: 'grid two' }, h('div', { class: 'card' }, chart.svg), h('div', { class: 'card' }, heading, list)));
}

// ---------------------------------------------------------------- classes

function classTable() {
  let order = ['name', 1];
  const head = h('tr');
  const body = h('tbody');
  const draw = () => {
    const columns = [
      ['name', 'class', (i) => i, (i) => [swatch(i), name(i)]],
      ['all', data.unit, (i) => kind().positives[i], (i) => brief(kind().positives[i])],
      ...kind().columns.map((c) => [c.name, c.name, (i) => c.values[i] ?? -1, (i) => [h('span', { class: 'meter' }, h('i', { style: `width:${100 * (c.values[i] || 0)}%` })), fixed(c.values[i])]]),
      ['precision', `precision at ${threshold()}`, (i) => scores(i).precision || -1, (i) => fixed(scores(i).precision)],
      ['recall', `recall at ${threshold()}`, (i) => scores(i).recall || -1, (i) => fixed(scores(i).recall)],
    ].filter(([key], i, all) => all.findIndex(([other]) => other === key) === i);
    head.replaceChildren(...columns.map(([key, text]) => {
      const sorted = key === order[0] ? (order[1] > 0 ? 'ascending' : 'descending') : null;
      const button = h('button', { type: 'button', onclick: () => {
        order = [key, key === order[0] ? -order[1] : key === 'name' ? 1 : -1];
        draw();
        head.querySelector('[aria-sort] button').focus();
      } }, text);
      return h('th', { scope: 'col', 'aria-sort': sorted }, button);
    }));
    const value = (columns.find(([key]) => key === order[0]) || columns[0])[2];
    const labels = data.classes.map((_, i) => i).sort((a, b) => order[1] * (value(a) - value(b)) || a - b);
    body.replaceChildren(...labels.map((i) => h('tr', {}, columns.map(([key, , , cell]) =>
      h(key === 'name' ? 'th' : 'td', { scope: key === 'name' ? 'row' : null }, cell(i))))));
  };
  parts.push(draw);
  return h('section', { id: 'classes' },
    h('h2', {}, 'Classes'),
    h('div', { class: 'grid' }, h('div', { class: `card scroll${data.classes.length > 20 ? ' tall' : ''}`, tabindex: 0, role: 'region', 'aria-label': 'Results per class' }, h('table', {}, h('thead', {}, head), body))));
}

function confusionMatrix() {
  const MOST = 24;
  const card = h('div', { class: 'card scroll', tabindex: 0, role: 'region', 'aria-label': 'Confusion matrix' });
  const list = h('ol', { class: 'mix' });
  parts.push(() => {
    const table = confusion();
    const size = data.classes.length;
    let shown = data.classes.map((_, i) => i);
    const many = size > MOST;
    if (many) {
      const wrong = (i) => sum(table[i]) - table[i][i] + sum(shown.map((j) => (j === i ? 0 : table[j][i])));
      shown = shown.map((i) => [wrong(i), i]).sort((a, b) => b[0] - a[0]).slice(0, MOST).map(([, i]) => i).sort((a, b) => a - b);
    }
    const left = table.some((row) => row[size]) ? [size] : [];
    const extra = table[size].some(Boolean) ? [size] : [];
    const lost = isDetection ? 'missed' : 'not sure';
    const cell = (truth, found) => {
      const n = table[truth][found];
      const all = truth === size ? sum(table[size]) : kind().positives[truth];
      const share = all ? n / all : 0;
      const text = isSegmentation ? percent(share) : count(n);
      return h('td', {
        class: `${n ? '' : 'zero'} ${truth === found ? 'own' : ''}`,
        style: n ? `background:rgba(var(--heat),${(0.1 + 0.65 * share).toFixed(3)})` : null,
        title: truth === size ? `${count(n)} on the background taken for ${name(found)}`
          : `${name(truth)} ${found === size ? lost : `taken for ${name(found)}`}: ${count(n)} of ${count(all)}`,
      }, text);
    };
    card.replaceChildren(h('table', { class: `confusion${many ? ' many' : ''}` },
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'truth ↓ found →'),
        [...shown, ...left].map((i) => h('th', { scope: 'col' }, i === size ? lost : name(i))))),
      h('tbody', {}, [...shown, ...extra].map((truth) => h('tr', {},
        h('th', { scope: 'row' }, ...(truth === size ? ['background'] : [swatch(truth), name(truth)])),
        [...shown, ...left].map((found) => (truth === size && found === size ? h('td') : cell(truth, found))))))));
    const pairs = mixUps(table).slice(0, 8);
    list.replaceChildren(...(pairs.length ? pairs.map((pair) => h('li', {}, swatch(pair.truth), `${name(pair.truth)} → ${name(pair.found)}`, h('b', {}, toShare(pair)))) : [h('li', {}, 'none at this threshold')]));
  });
  const what = { detection: 'Objects by their true class (rows) and by the class of the box or mask that covers them (columns). Where several cover an object, the one with the highest score counts, so a right one with a lower score is on the background here.',
    segmentation: 'Pixels by their true class (rows) and by the class that they get (columns), as shares of the row.',
    classification: 'Images by their true class (rows) and by the class that they get (columns).' }[data.task];
  return h('section', { id: 'confusion' },
    h('h2', {}, 'What is taken for what'),
    h('p', { class: 'lead' }, what + (data.classes.length > MOST ? ` Of ${data.classes.length} classes, the ${MOST} with most mistakes.` : '')),
    h('div', { class: `grid ${data.classes.length > 10 ? '' : 'two'}` }, card, h('div', { class: 'card' }, h('h3', {}, 'Most frequent mix-ups'), list)));
}

function sizes() {
  if (!kind().sizes.some((size) => size.total)) return null;
  const list = h('ul', { class: 'sizes' });
  parts.push(() => list.replaceChildren(...kind().sizes.filter((size) => size.total).map((size) => {
    const found = size.found[state.level];
    const share = found / size.total;
    return h('li', {}, h('span', {}, size.name, h('small', {}, size.group)),
      h('span', { class: 'track', role: 'img', 'aria-label': `${percent(share)} found` },
        h('i', { class: 'found', style: `width:${100 * share}%` }), h('i', { class: 'missed', style: `width:${100 - 100 * share}%` })),
      h('span', {}, `${count(found)} of ${count(size.total)}`));
  })));
  return h('section', { id: 'sizes' },
    h('h2', {}, 'Found and missed by size'),
    h('p', { class: 'lead' }, isDetection
      ? 'Objects by the side of a square with their area; small, medium and large as COCO defines them. Filled: found with the right class. Hatched: missed.'
      : 'Connected regions of one class, by the side of a square with their area. Filled: at least half of the pixels are right. Hatched: missed.'),
    h('div', { class: 'grid' }, h('div', { class: 'card' }, list)));
}

// ---------------------------------------------------------------- training

const STROKES = ['--s1', '--s2', '--s3', '--s4', '--s5', '--s6'];
const isLeading = (text) => /(^loss$|mAP$|mAP_50$|mIoU$|mAcc$|aAcc$|top1$|^lr$|grad_norm)/.test(text);

function trainingPanel({ title, x, curves, marks }) {
  const on = new Set(curves.map((c, i) => i).filter((i) => isLeading(curves[i].name)));
  if (!on.size) curves.slice(0, 6).forEach((_, i) => on.add(i));
  const stroke = (i) => `var(${STROKES[i % STROKES.length]})`;
  const dash = (i) => ['', '6 3', '2 3'][Math.floor(i / STROKES.length) % 3];
  const holder = h('div');
  const readout = h('p', { class: 'readout', 'aria-live': 'polite' });
  const width = narrow ? 380 : 540;
  let at = null;
  let redraw = () => {};
  const steps = () => [...new Set([...on].flatMap((i) => curves[i].points.map(([step]) => step)))].sort((a, b) => a - b);
  const draw = () => {
    const points = [...on].flatMap((i) => curves[i].points).filter(([, y]) => y !== null);
    const [xs, ys] = [points.map(([v]) => v), points.map(([, v]) => v)];
    const low = Math.min(...ys, 0);
    const high = Math.max(...ys, low + 1e-12);
    const last = Math.max(...xs, 1);
    const from = x === 'epoch' && last > 1 ? 1 : 0;
    const chart = axes({ width, height: 280, x: [from, last], y: [low, high + 0.04 * (high - low)], xName: x, label: `${title} over ${x}s: ${[...on].map((i) => curves[i].name).join(', ')}` });
    for (const mark of marks || []) chart.plot.append(s('line', { class: 'mark', x1: chart.px(mark), x2: chart.px(mark), y1: chart.box.top, y2: chart.box.bottom }, s('title', {}, 'resumed')));
    for (const i of on) {
      const own = curves[i].points.filter(([, y]) => y !== null);
      chart.plot.append(s('path', { class: 'curve', d: line(own, chart.px, chart.py), style: `stroke:${stroke(i)}`, 'stroke-dasharray': dash(i) || null }));
      if (own.length < 20) for (const [px, py] of own) chart.plot.append(s('circle', { cx: chart.px(px), cy: chart.py(py), r: 3, style: `fill:${stroke(i)}` }));
    }
    const cursor = s('line', { class: 'cursor', y1: chart.box.top, y2: chart.box.bottom, visibility: 'hidden' });
    chart.plot.append(cursor);
    redraw = () => {
      cursor.setAttribute('visibility', at === null ? 'hidden' : 'visible');
      if (at === null) {
        readout.textContent = `${x} ${count(last)}: ` + [...on].map((i) => `${curves[i].name} ${short(curves[i].points[curves[i].points.length - 1][1])}`).join(', ');
        return;
      }
      cursor.setAttribute('x1', chart.px(at));
      cursor.setAttribute('x2', chart.px(at));
      const values = [...on].map((i) => [curves[i].name, curves[i].points.find(([step]) => step === at)]).filter(([, point]) => point);
      readout.textContent = `${x} ${count(at)}: ` + values.map(([text, [, y]]) => `${text} ${y === null ? '–' : short(y)}`).join(', ');
    };
    chart.svg.setAttribute('tabindex', 0);
    chart.svg.addEventListener('pointermove', (event) => {
      const place = chart.svg.getBoundingClientRect();
      const vx = ((event.clientX - place.left) / place.width) * width;
      at = steps().reduce((a, b) => (Math.abs(chart.px(b) - vx) < Math.abs(chart.px(a) - vx) ? b : a));
      redraw();
    });
    const leave = () => { at = null; redraw(); };
    chart.svg.addEventListener('pointerleave', leave);
    chart.svg.addEventListener('blur', leave);
    chart.svg.addEventListener('keydown', (event) => {
      const all = steps();
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (move === undefined) return;
      const now = at === null ? (move < 0 ? all.length : -1) : all.indexOf(at);
      at = all[Math.min(Math.max(now + move, 0), all.length - 1)];
      redraw();
      event.preventDefault();
    });
    holder.replaceChildren(chart.svg);
    redraw();
  };
  const legend = curves.length > 1 ? h('ul', { class: 'legend', 'aria-label': `Curves of ${title}` }, curves.map((curve, i) => {
    const button = h('button', { type: 'button', 'aria-pressed': on.has(i), onclick: () => {
      if (on.has(i) && on.size > 1) on.delete(i); else on.add(i);
      button.setAttribute('aria-pressed', on.has(i));
      draw();
    } }, h('i', { class: 'key', style: `border-color:${stroke(i)};border-top-style:${dash(i) ? 'dashed' : 'solid'}` }), curve.name);
    return h('li', {}, button);
  })) : null;
  draw();
  return h('div', { class: 'card panel' }, h('header', {}, h('h3', {}, title)), holder, readout, legend);
}

function training() {
  const { panels, problems } = data.history;
  return h('section', { id: 'training' },
    h('h2', {}, 'Training'),
    h('p', { class: 'lead' }, panels.length
      ? [`As logged by the run${panels.some((p) => p.marks.length) ? '; dotted lines are where it was resumed' : ''}. `,
        h('span', { class: 'screen' }, 'Point at a chart, or focus it and use the arrow keys, for values.')]
      : `There are no curves: ${problems.join('; ')}.`),
    h('div', { class: 'grid half' }, panels.map(trainingPanel)));
}

// ---------------------------------------------------------------- facts and commands

const pairs = (facts) => h('dl', {}, facts.map(([term, text]) => [h('dt', {}, term), h('dd', {}, text)]));

function speed() {
  return h('section', { id: 'speed' }, h('h2', {}, 'Speed and memory'), h('div', { class: 'grid' }, h('div', { class: 'card' }, pairs(data.speed))));
}

function details() {
  const metrics = Object.entries(data.metrics).map(([key, value]) => [key, value === null || value === -1 ? '–' : short(value)]);
  return h('section', { id: 'details' },
    h('h2', {}, 'What was trained, on what, with what'),
    h('div', { class: 'facts' },
      Object.entries(data.facts).map(([title, facts]) => h('div', { class: 'card' }, h('h3', {}, title), pairs(facts))),
      h('div', { class: 'card' }, h('h3', {}, 'All metrics of the test set'), pairs(metrics))));
}

function next() {
  const copy = (text) => (event) => {
    const button = event.currentTarget;
    const done = (said) => { button.textContent = said; setTimeout(() => { button.textContent = 'Copy'; }, 1500); };
    const select = () => { getSelection().selectAllChildren(button.previousSibling); done('Selected'); };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => done('Copied'), select); else select();
  };
  return h('section', { id: 'next' },
    h('h2', {}, 'How to go on'),
    h('ul', { class: 'commands' }, data.commands.map(([text, command]) => h('li', {}, h('h3', {}, text),
      h('div', { class: 'command' }, h('pre', {}, command), h('button', { type: 'button', class: 'quiet copy', onclick: copy(command), 'aria-label': `Copy the command: ${text}` }, 'Copy'))))));
}

// ---------------------------------------------------------------- the page

function update() {
  for (const part of parts) part();
  if (enlarged) enlarged.update();
}
let waiting = false;
function schedule() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; update(); });
}

function themes() {
  const button = document.getElementById('theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const set = (dark) => {
    document.documentElement.dataset.theme = dark ? 'dark' : 'light';
    button.textContent = dark ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Use ${dark ? 'light' : 'dark'} colours`);
  };
  set(system.matches);
  system.addEventListener('change', (event) => set(event.matches));
  button.addEventListener('click', () => set(document.documentElement.dataset.theme !== 'dark'));
}

document.title = `${data.title} – report`;
const sections = [hero(), bar(), gallery(), precisionRecall(), classTable(), confusionMatrix(), sizes(), training(), speed(), details(), next()].filter(Boolean);
main.replaceChildren(...sections, h('footer', {}, data.made));
document.getElementById('nav').append(...sections.slice(1).filter((part) => part.id).map((part) =>
  h('a', { href: `#${part.id}` }, { images: 'Images', curves: 'Precision', classes: 'Classes', confusion: 'Confusion', sizes: 'Sizes', training: 'Training', speed: 'Speed', details: 'Details', next: 'Next' }[part.id])));
themes();
update();
