'use strict';
// What each token of an ATMNet samples. The data is in the element #data; mmatm/look/page.py
// describes its format. A token is [row, column]; maps are flat, row by row.
(async () => {
  const ROW = 0, COLUMN = 1, OWN = 2;
  const AXIS_NAMES = ['row', 'column'];
  const AXIS_COLOURS = ['#0072b2', '#d55e00', '#8c8c8c']; // Okabe and Ito's, and grey
  const VIRIDIS = ['#482475', '#414487', '#355f8d', '#2a788e', '#21918c', '#22a884', '#44bf70', '#7ad151', '#bddf26', '#fde725'];
  const INFERNO = ['#000004', '#1b0c41', '#4a0c6b', '#781c6d', '#a52c60', '#cf4446', '#ed6925', '#fb9b06', '#f7d13d', '#fcffa4'];
  const MARGIN = 26; // pixels around the image, for samples outside of it
  const $ = (id) => document.getElementById(id);
  const DATA = JSON.parse($('data').textContent);
  const { image: IMAGE } = DATA;

  // ---- unpacking

  const bytesOf = (text) => {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  };
  const inflate = async (text) => {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream('deflate'));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  async function unpackOffsets({ height, width, groups, data }) {
    const bytes = await inflate(data), count = bytes.length / 2, tokens = height * width;
    const values = new Int16Array(count);
    for (let map = 0; map < 2 * groups; map++) {
      for (let t = 0; t < tokens; t++) {
        const i = map * tokens + t, folded = bytes[i] | (bytes[i + count] << 8);
        values[i] = ((folded >> 1) ^ -(folded & 1)) + (t < width ? 0 : values[i - width]);
      }
    }
    return values;
  }

  async function unpackModel(model) {
    const offsets = await Promise.all(model.offsets.map(unpackOffsets));
    const blocks = model.blocks.map((b, number) => {
      const entry = model.offsets[b.offsets], { height, width, groups, step } = entry;
      const gate = Float32Array.from(new Uint16Array(bytesOf(b.gate).buffer), (v) => v / 65535);
      const share = b.channels / groups;
      const mean = [0, 1, 2].map((k) => average(gate, k * b.channels, b.channels));
      const weight = [ROW, COLUMN].map((axis) =>
        Float32Array.from({ length: groups }, (_, g) => average(gate, axis * b.channels + g * share, share)));
      return {
        number, stage: b.stage, index: b.index, height, width, groups, step, gate, mean, weight, share,
        channels: b.channels, stride: 4 * 2 ** b.stage, tokens: height * width,
        offset: offsets[b.offsets], generator: entry.block, generates: entry.block === b.index, cache: new Map(),
      };
    });
    const found = { ...model.found };
    if (found.kind === 'labels') found.labels = new Uint16Array((await inflate(found.data)).buffer);
    const cams = await Promise.all(model.cams.map(async (cam) => ({ ...cam, values: await inflate(cam.data) })));
    return { name: model.name, blocks, found, cams };
  }

  function average(values, start, count) {
    let sum = 0;
    for (let i = start; i < start + count; i++) sum += values[i];
    return sum / count;
  }

  // ---- what is sampled

  /** Where token t samples: fractional columns of its row, or rows of its column. */
  function position(block, axis, group, t) {
    const own = axis === ROW ? t % block.width : Math.floor(t / block.width);
    return own + block.offset[(axis * block.groups + group) * block.tokens + t] * block.step;
  }
  const sizeOf = (block, axis) => (axis === ROW ? block.width : block.height);
  const isOutside = (block, axis, p) => p < 0 || p > sizeOf(block, axis) - 1;

  /**
   * Follow samples: `backward` from the tokens that read (weights v) to the places they read, else
   * from places to the tokens that read them. Sums to sum(v) less what is read outside the map,
   * times the gate's mean weights of these axes.
   */
  function follow(block, v, axes, groups, backward) {
    const { height, width, tokens, step, offset } = block, out = new Float32Array(tokens);
    let readers = null; // only tokens with a weight, if few have one
    if (backward) {
      readers = [];
      for (let t = 0; t < tokens; t++) if (v[t] !== 0) readers.push(t);
      if (readers.length > tokens / 2) readers = null;
    }
    const count = readers ? readers.length : tokens;
    for (const axis of axes) {
      const size = axis === ROW ? width : height, stride = axis === ROW ? 1 : width;
      for (const g of groups) {
        const start = (axis * block.groups + g) * tokens, weight = block.weight[axis][g] / groups.length;
        for (let n = 0; n < count; n++) {
          const t = readers ? readers[n] : n;
          const own = axis === ROW ? t % width : (t / width) | 0;
          const p = own + offset[start + t] * step, first = Math.floor(p), part = p - first;
          const near = t + (first - own) * stride, far = near + stride;
          const hasNear = first >= 0 && first < size, hasFar = first >= -1 && first < size - 1;
          if (backward) {
            if (hasNear) out[near] += v[t] * weight * (1 - part);
            if (hasFar) out[far] += v[t] * weight * part;
          } else {
            out[t] += weight * ((hasNear ? v[near] * (1 - part) : 0) + (hasFar ? v[far] * part : 0));
          }
        }
      }
    }
    return out;
  }

  /** `follow` from one place to the tokens that read it, all of which are in its row or column. */
  function readersOf(block, place, axes, groups) {
    const out = new Float32Array(block.tokens), { width } = block;
    const row = Math.floor(place / width), column = place % width;
    for (const axis of axes) {
      const target = axis === ROW ? column : row;
      for (let n = 0; n < sizeOf(block, axis); n++) {
        const t = axis === ROW ? row * width + n : n * width + column;
        for (const g of groups) {
          const near = 1 - Math.abs(position(block, axis, g, t) - target);
          if (near > 0) out[t] += (near * block.weight[axis][g]) / groups.length;
        }
      }
    }
    return out;
  }

  const allGroups = (block) => Array.from({ length: block.groups }, (_, g) => g);

  /** Weights v on the output of a block, back to its input: half passes by, half is mixed. */
  function throughBlock(block, v) {
    const mixed = follow(block, v, [ROW, COLUMN], allGroups(block), true);
    for (let t = 0; t < mixed.length; t++) mixed[t] = 0.5 * (v[t] + block.mean[OWN] * v[t] + mixed[t]);
    return mixed;
  }

  /**
   * Weights on the first map of a stage, back through the 3x3 convolution of stride 2 before it:
   * most to the centre of the kernel, so that every place counts the same.
   */
  function throughDownsampling(block, v, before) {
    const out = new Float32Array(before.tokens);
    for (let t = 0; t < v.length; t++) {
      if (v[t] === 0) continue;
      const row = 2 * Math.floor(t / block.width), column = 2 * (t % block.width);
      for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, before.height - 1); y++) {
        for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, before.width - 1); x++) {
          out[y * before.width + x] += v[t] * (y === row ? 0.5 : 0.25) * (x === column ? 0.5 : 0.25);
        }
      }
    }
    return out;
  }

  /** Maps at the input of every block up to this one, for weights v on its output. */
  function chain(model, number, v) {
    const maps = [];
    for (let n = number; n >= 0; n--) {
      const block = model.blocks[n];
      v = maps[n] = throughBlock(block, v);
      if (n && block.index === 0) v = throughDownsampling(block, v, model.blocks[n - 1]);
    }
    return maps;
  }

  /** Histogram of offsets, and the share of the samples outside the map, per axis. */
  function statistics(block, groups) {
    const key = `statistics ${groups.length === 1 ? groups[0] : 'all'}`;
    if (block.cache.has(key)) return block.cache.get(key);
    const { tokens, width, offset, step } = block;
    const result = [ROW, COLUMN].map((axis) => {
      const size = sizeOf(block, axis);
      let outside = 0, sum = 0, squares = 0;
      for (const g of groups) {
        const start = (axis * block.groups + g) * tokens;
        for (let t = 0; t < tokens; t++) {
          const d = offset[start + t] * step, p = d + (axis === ROW ? t % width : (t / width) | 0);
          if (p < 0 || p > size - 1) outside++;
          sum += Math.abs(d); squares += d * d;
        }
      }
      const count = tokens * groups.length;
      return { outside: outside / count, mean: sum / count, deviation: Math.sqrt(squares / count) };
    });
    // Bins are multiples of the step to which offsets are rounded, so that none gets more steps.
    const half = 30, bins = 2 * half + 1, wanted = Math.max(0.5, 3.2 * Math.max(result[0].deviation, result[1].deviation));
    const bin = Math.max(1, Math.ceil(wanted / half / step)), reach = (half + 0.5) * bin * step;
    for (const axis of [ROW, COLUMN]) {
      const counts = new Float32Array(bins);
      for (const g of groups) {
        const start = (axis * block.groups + g) * tokens;
        for (let t = 0; t < tokens; t++) {
          counts[Math.min(Math.max(Math.floor(offset[start + t] / bin + 0.5) + half, 0), bins - 1)]++;
        }
      }
      result[axis].counts = counts;
    }
    const value = { axes: result, reach, bins };
    block.cache.set(key, value);
    return value;
  }

  // ---- state, kept in the address

  const models = [];
  let grey, small; // the image without colours, and for thumbnails
  const VIEWS = { samples: 'Samples', reverse: 'Reverse', chain: 'Chain' };
  const AXES = { both: 'Both', row: 'Row', column: 'Column' };
  const LAYERS = { grid: 'Grid', found: 'Found', fade: 'Fade', lens: 'Lens' };
  const state = { view: 'samples', subject: 'token', block: 0, axis: 'both', group: -1, pin: null, layers: { grid: true, found: true, fade: true, lens: true }, cam: '' };
  let hovered = null; // where the pointer is, in pixels of the image
  let kept = null; // where the token stays while nothing is hovered or pinned

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1)), get = (name) => given.get(name);
    if (get('view') in VIEWS) state.view = get('view');
    if (get('axis') in AXES) state.axis = get('axis');
    const [stage, index] = (get('block') || '').split('.').map((n) => n - 1);
    const block = models[0].blocks.find((b) => b.stage === stage && b.index === index);
    if (block) state.block = block.number;
    if (given.has('group')) state.group = get('group') === 'all' ? -1 : Number(get('group')) - 1;
    if (given.has('layers')) for (const name in LAYERS) state.layers[name] = get('layers').split(',').includes(name);
    if (given.has('subject') && regionOf(get('subject'))) state.subject = get('subject');
    if (given.has('cam')) state.cam = get('cam');
    if (given.has('at')) {
      const [x, y] = get('at').split(',').map(Number);
      state.pin = x >= 0 && y >= 0 && x < IMAGE.width && y < IMAGE.height ? [x, y] : null;
    }
    if (!(state.group < current().groups)) state.group = -1;
  }

  function writeAddress() {
    const b = current(), layers = Object.keys(LAYERS).filter((name) => state.layers[name]);
    const parts = {
      view: state.view, subject: state.subject, block: `${b.stage + 1}.${b.index + 1}`, axis: state.axis,
      group: state.group < 0 ? 'all' : state.group + 1, at: state.pin ? state.pin.map(Math.round) : 'free', layers,
    };
    if (state.cam) parts.cam = state.cam;
    const address = '#' + Object.entries(parts).map(([k, v]) => `${k}=${encodeURIComponent(v).replace(/%2C/g, ',')}`).join('&');
    if (address !== location.hash) history.replaceState(null, '', address);
  }

  const current = (model = models[0]) => model.blocks[state.block];
  const axes = () => ({ both: [ROW, COLUMN], row: [ROW], column: [COLUMN] })[state.axis];
  const groups = (block) => (state.group < 0 ? allGroups(block) : [state.group]);
  const focus = () => state.pin || hovered || kept;

  function tokenAt(block, [x, y]) {
    const column = Math.min(Math.floor(x / block.stride), block.width - 1);
    return Math.min(Math.floor(y / block.stride), block.height - 1) * block.width + column;
  }

  // ---- the tokens that are looked at: one, all, or those of a box or segment

  /** A test of pixels [x, y]; null for what does not exist. */
  function regionOf(subject) {
    const { found } = models[0];
    if (subject === 'token' || subject === 'all') return () => true;
    if (found.kind === 'instances' && /^i\d+$/.test(subject)) {
      const item = found.items[subject.slice(1)];
      if (!item) return null;
      const [x1, y1, x2, y2] = item.box;
      if (!item.polygons.length) return ([x, y]) => x >= x1 && x < x2 && y >= y1 && y < y2;
      const path = new Path2D(), pen = document.createElement('canvas').getContext('2d');
      for (const polygon of item.polygons) {
        for (let i = 0; i < polygon.length; i += 2) path[i ? 'lineTo' : 'moveTo'](polygon[i], polygon[i + 1]);
        path.closePath();
      }
      return ([x, y]) => pen.isPointInPath(path, x, y);
    }
    const labelAt = ([x, y]) => found.labels[Math.floor(y) * found.width + Math.floor(x)];
    if (found.kind === 'labels' && /^c\d+$/.test(subject)) {
      const label = Number(subject.slice(1));
      return label in found.names ? (spot) => labelAt(spot) === label : null;
    }
    if (found.kind === 'labels' && /^s\d+,\d+$/.test(subject)) {
      const [x, y] = subject.slice(1).split(',').map(Number);
      if (x >= found.width || y >= found.height) return null;
      const inside = segment(found, x, y);
      return (spot) => inside[Math.floor(spot[1]) * found.width + Math.floor(spot[0])] === 1;
    }
    return null;
  }

  /** The connected pixels of one label around a pixel. */
  function segment({ labels, width, height }, x, y) {
    const inside = new Uint8Array(labels.length), start = y * width + x, waiting = [start];
    inside[start] = 1;
    while (waiting.length) {
      const i = waiting.pop(), column = i % width;
      for (const [ok, j] of [[column > 0, i - 1], [column < width - 1, i + 1], [i >= width, i - width], [i + width < labels.length, i + width]]) {
        if (ok && !inside[j] && labels[j] === labels[start]) { inside[j] = 1; waiting.push(j); }
      }
    }
    return inside;
  }

  const centre = (block, t) => [(t % block.width + 0.5) * block.stride, (Math.floor(t / block.width) + 0.5) * block.stride];

  let regionCache = { subject: null };
  /** Weights of the subject's tokens, which sum to 1. */
  function subjectWeights(block) {
    if (state.subject === 'token') {
      const v = new Float32Array(block.tokens);
      v[tokenAt(block, focus())] = 1;
      return v;
    }
    if (regionCache.subject !== state.subject) regionCache = { subject: state.subject, test: regionOf(state.subject), maps: new Map() };
    const key = `${block.stage} ${block.tokens}`;
    if (!regionCache.maps.has(key)) {
      const v = new Float32Array(block.tokens);
      let count = 0;
      for (let t = 0; t < v.length; t++) {
        const [x, y] = centre(block, t);
        if (x < IMAGE.width && y < IMAGE.height && regionCache.test([x, y])) { v[t] = 1; count++; }
      }
      if (!count) { // smaller than a token
        const item = models[0].found.items[state.subject.slice(1)];
        const spot = item ? [(item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2] : state.subject.slice(1).split(',').map(Number);
        v[tokenAt(block, [Math.min(Math.max(spot[0] || 0, 0), IMAGE.width - 1), Math.min(Math.max(spot[1] || 0, 0), IMAGE.height - 1)])] = count = 1;
      }
      for (let t = 0; t < v.length; t++) v[t] /= count;
      regionCache.maps.set(key, v);
    }
    return regionCache.maps.get(key);
  }

  /** The token or region as text: the key of what was computed for it. */
  const subjectKey = (block) => (state.subject === 'token' ? `t${tokenAt(block, focus())}` : state.subject);

  const isPoints = () => state.view === 'samples' && state.subject === 'token';

  let chainCache = [];
  function chainOf(model) {
    const block = current(model), key = `${state.block} ${subjectKey(block)}`;
    const index = models.indexOf(model);
    if (chainCache[index]?.key !== key) chainCache[index] = { key, maps: chain(model, state.block, subjectWeights(block)) };
    return chainCache[index].maps;
  }

  /** The heat map of one block in this view: weights that sum to 1 at most; null for none. */
  function heatOf(model, block) {
    if (state.view === 'chain') return block.number > state.block ? null : chainOf(model)[block.number];
    const key = `${state.view} ${subjectKey(block)} ${state.axis} ${state.group}`;
    if (block.cache.get('heat')?.key !== key) {
      const chosen = groups(block).filter((g) => g < block.groups), some = chosen.length ? chosen : allGroups(block);
      const map = state.view === 'reverse' && state.subject === 'token'
        ? readersOf(block, tokenAt(block, focus()), axes(), some)
        : follow(block, subjectWeights(block), axes(), some, state.view === 'samples');
      block.cache.set('heat', { key, map });
    }
    return block.cache.get('heat').map;
  }

  // ---- drawing: the same calls draw on the screen and into an SVG file

  class CanvasPen {
    constructor(context) { this.c = context; }
    disc(x, y, r, fill, stroke, width, alpha = 1) {
      const { c } = this;
      c.globalAlpha = alpha; c.beginPath(); c.arc(x, y, r, 0, 6.2832);
      if (fill) { c.fillStyle = fill; c.fill(); }
      if (stroke) { c.strokeStyle = stroke; c.lineWidth = width; c.stroke(); }
      c.globalAlpha = 1;
    }
    path(points, { fill, stroke, width = 1, alpha = 1, closed = true }) {
      const { c } = this;
      c.globalAlpha = alpha; c.beginPath();
      for (let i = 0; i < points.length; i += 2) c[i ? 'lineTo' : 'moveTo'](points[i], points[i + 1]);
      if (closed) c.closePath();
      if (fill) { c.fillStyle = fill; c.fill(); }
      if (stroke) { c.strokeStyle = stroke; c.lineWidth = width; c.stroke(); }
      c.globalAlpha = 1;
    }
    text(x, y, string, fill, size, anchor = 'start') {
      const { c } = this;
      c.font = `${size}px system-ui, sans-serif`; c.textAlign = anchor === 'middle' ? 'center' : anchor; c.textBaseline = 'alphabetic';
      c.fillStyle = fill; c.fillText(string, x, y);
    }
    image(source, x, y, width, height, { alpha = 1, smooth = true } = {}) {
      const { c } = this;
      c.globalAlpha = alpha; c.imageSmoothingEnabled = smooth; c.imageSmoothingQuality = 'high';
      c.drawImage(source, x, y, width, height); c.globalAlpha = 1;
    }
    clip(x, y, width, height, draw) {
      const { c } = this;
      c.save(); c.beginPath(); c.rect(x, y, width, height); c.clip(); draw(); c.restore();
    }
  }

  class SvgPen {
    constructor() { this.parts = []; this.clips = 0; }
    static style(fill, stroke, width, alpha) {
      return `fill="${fill || 'none'}"${stroke ? ` stroke="${stroke}" stroke-width="${width}"` : ''}${alpha < 1 ? ` opacity="${alpha.toFixed(3)}"` : ''}`;
    }
    disc(x, y, r, fill, stroke, width, alpha = 1) {
      this.parts.push(`<circle cx="${x.toFixed(2)}" cy="${y.toFixed(2)}" r="${r.toFixed(2)}" ${SvgPen.style(fill, stroke, width, alpha)}/>`);
    }
    path(points, { fill, stroke, width = 1, alpha = 1, closed = true }) {
      const d = points.reduce((text, v, i) => text + (i % 2 ? `,${v.toFixed(2)}` : `${i ? 'L' : 'M'}${v.toFixed(2)}`), '');
      this.parts.push(`<path d="${d}${closed ? 'Z' : ''}" ${SvgPen.style(fill, stroke, width, alpha)}/>`);
    }
    text(x, y, string, fill, size, anchor = 'start') {
      const safe = string.replace(/[&<>]/g, (s) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[s]);
      this.parts.push(`<text x="${x}" y="${y}" fill="${fill}" font-size="${size}" text-anchor="${anchor}" font-family="system-ui, sans-serif">${safe}</text>`);
    }
    image(source, x, y, width, height, { alpha = 1, smooth = true } = {}) {
      const url = source instanceof HTMLCanvasElement ? source.toDataURL() : source.src;
      this.parts.push(`<image href="${url}" x="${x}" y="${y}" width="${width}" height="${height}" preserveAspectRatio="none" opacity="${alpha}"${smooth ? '' : ' style="image-rendering:pixelated"'}/>`);
    }
    clip(x, y, width, height, draw) {
      const id = `clip${this.clips++}`;
      this.parts.push(`<clipPath id="${id}"><rect x="${x}" y="${y}" width="${width}" height="${height}"/></clipPath><g clip-path="url(#${id})">`);
      draw();
      this.parts.push('</g>');
    }
    file(width, height) {
      return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"><rect width="100%" height="100%" fill="#fff"/>${this.parts.join('')}</svg>`;
    }
  }

  const ramp = (stops) => {
    const rgb = stops.map((s) => [1, 3, 5].map((i) => parseInt(s.slice(i, i + 2), 16)));
    return (t) => {
      const x = Math.min(Math.max(t, 0), 1) * (rgb.length - 1), i = Math.min(Math.floor(x), rgb.length - 2);
      return rgb[i].map((v, k) => Math.round(v + (rgb[i + 1][k] - v) * (x - i)));
    };
  };
  const viridis = ramp(VIRIDIS), inferno = ramp(INFERNO), heatColour = (t) => inferno(0.12 + 0.88 * t);
  const groupColours = new Map();
  function groupColour(block, g) {
    if (!groupColours.has(block.groups)) {
      groupColours.set(block.groups, allGroups(block).map((i) => `rgb(${viridis(block.groups > 1 ? i / (block.groups - 1) : 0.5)})`));
    }
    return groupColours.get(block.groups)[g];
  }
  const rgbOf = (found, label) => found.palette[label] || [128, 128, 128];

  function makeCanvas(width, height) {
    const canvas = document.createElement('canvas');
    canvas.width = width; canvas.height = height;
    return canvas;
  }

  /** How a map becomes colours: from its least value for all tokens, else by square root from 0. */
  function scaleOf(map) {
    let least = Infinity, most = 0, sum = 0;
    for (const v of map) { least = Math.min(least, v); most = Math.max(most, v); sum += v; }
    const mean = sum / map.length || 1, whole = state.subject === 'all' && !state.cam;
    if (!whole) return { least: 0, most, mean, level: (v) => Math.sqrt(v / (most || 1)), opacity: (level) => (level > 0.02 ? 0.23 + 0.77 * level : 0) };
    const range = most - least || 1;
    return { least, most, mean, level: (v) => (v - least) / range, opacity: () => 0.85 };
  }

  function paintHeat(map, width, height) {
    const canvas = makeCanvas(width, height), context = canvas.getContext('2d');
    const pixels = context.createImageData(width, height), { data } = pixels, scale = scaleOf(map);
    for (let t = 0; t < map.length; t++) {
      const level = scale.level(map[t]), [r, g, b] = heatColour(level);
      data[4 * t] = r; data[4 * t + 1] = g; data[4 * t + 2] = b; data[4 * t + 3] = 255 * scale.opacity(level);
    }
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  const labelImages = new Map();
  /** A label map in its colours; its borders alone where colours mean something else. */
  function paintLabels(found, bordersOnly) {
    const key = `${bordersOnly} ${models.findIndex((m) => m.found === found)}`;
    if (!labelImages.has(key)) {
      const { labels, width, height } = found, canvas = makeCanvas(width, height), context = canvas.getContext('2d');
      const pixels = context.createImageData(width, height);
      labels.forEach((label, i) => {
        const inner = ((i + 1) % width === 0 || labels[i + 1] === label) && (i + width >= labels.length || labels[i + width] === label);
        if (label in found.names && !(bordersOnly && inner)) pixels.data.set([...(bordersOnly ? [255, 255, 255] : rgbOf(found, label)), 255], 4 * i);
      });
      context.putImageData(pixels, 0, 0);
      labelImages.set(key, canvas);
    }
    return labelImages.get(key);
  }

  function drawBase(pen, panel, k) {
    const { model } = panel, block = current(model), w = IMAGE.width * k, h = IMAGE.height * k;
    const cam = model.cams.find((c) => c.name === state.cam);
    const hasHeat = !isPoints() || cam;
    pen.clip(MARGIN, MARGIN, w, h, () => {
      pen.image(hasHeat ? grey : panel.picture, MARGIN, MARGIN, w, h);
      if (state.layers.fade) pen.path(box(0, 0, IMAGE.width, IMAGE.height, k), { fill: '#fff', alpha: hasHeat ? 0.25 : 0.4 });
      if (cam) {
        pen.image(paintHeat(Float32Array.from(cam.values), cam.width, cam.height), MARGIN, MARGIN, w, h, { alpha: 0.8 });
      } else if (!isPoints()) {
        const map = heatOf(model, state.view === 'chain' ? model.blocks[0] : block);
        const shown = state.view === 'chain' ? model.blocks[0] : block;
        pen.image(paintHeat(map, shown.width, shown.height), MARGIN, MARGIN, shown.width * shown.stride * k, shown.height * shown.stride * k, { smooth: false });
      }
      if (state.layers.grid) drawGrid(pen, block, k);
      if (state.layers.found) drawFound(pen, model.found, k, hasHeat);
    });
    pen.path(box(0, 0, IMAGE.width, IMAGE.height, k), { stroke: '#c9ced6', width: 1 });
  }

  const box = (x1, y1, x2, y2, k) => [x1, y1, x2, y1, x2, y2, x1, y2].map((v) => MARGIN + v * k);

  function drawGrid(pen, block, k) {
    const cell = block.stride * k, alpha = Math.min(0.28, Math.max(0, (cell - 2) / 30));
    if (!alpha) return;
    const right = MARGIN + Math.min(block.width * cell, IMAGE.width * k), bottom = MARGIN + Math.min(block.height * cell, IMAGE.height * k);
    const style = { stroke: '#20262e', width: 0.5, alpha, closed: false };
    for (let x = 1; x < block.width; x++) pen.path([MARGIN + x * cell, MARGIN, MARGIN + x * cell, bottom], style);
    for (let y = 1; y < block.height; y++) pen.path([MARGIN, MARGIN + y * cell, right, MARGIN + y * cell], style);
  }

  function drawFound(pen, found, k, hasHeat) {
    if (found.kind === 'labels') {
      pen.image(paintLabels(found, hasHeat), MARGIN, MARGIN, found.width * k, found.height * k, { alpha: hasHeat ? 0.8 : 0.35, smooth: false });
    }
    if (found.kind !== 'instances') return;
    const labels = [];
    found.items.forEach((item, i) => {
      const colour = `rgb(${rgbOf(found, item.label)})`, chosen = state.subject === `i${i}`;
      for (const polygon of item.polygons) {
        const points = polygon.map((v) => MARGIN + v * k);
        pen.path(points, { stroke: '#fff', width: chosen ? 5 : 3.5, alpha: 0.85 });
        pen.path(points, { stroke: colour, width: chosen ? 3 : 1.75 });
      }
      const [x1, y1, x2, y2] = item.box;
      if (!item.polygons.length) pen.path(box(x1, y1, x2, y2, k), { stroke: '#fff', width: chosen ? 5 : 3.5, alpha: 0.85 });
      pen.path(box(x1, y1, x2, y2, k), { stroke: colour, width: item.polygons.length ? 1 : chosen ? 3 : 1.75, alpha: item.polygons.length ? 0.6 : 1 });
      const label = `${found.names[item.label]} ${item.score.toFixed(2)}`, width = 7 + 6.2 * label.length;
      const x = Math.min(Math.max(MARGIN + x1 * k, MARGIN), MARGIN + IMAGE.width * k - width), y = Math.max(MARGIN + y1 * k - 16, MARGIN);
      // Where labels would overlap, that of the highest score stays.
      if (!chosen && labels.some(([u, v, length]) => x < u + length && u < x + width && Math.abs(y - v) < 16)) return;
      labels.push([x, y, width]);
      pen.path([x, y, x + width, y, x + width, y + 16, x, y + 16], { fill: '#fff', alpha: 0.88 });
      pen.path([x, y, x + 3, y, x + 3, y + 16, x, y + 16], { fill: colour });
      pen.text(x + 6, y + 12, label, '#1b1f24', 11);
    });
  }

  /** What follows the pointer. */
  function drawOver(pen, panel, k) {
    const block = current(panel.model), spot = focus();
    if (state.subject !== 'token' || !spot) return;
    const t = tokenAt(block, spot), w = IMAGE.width * k, h = IMAGE.height * k;
    drawToken(pen, block, t, { x: MARGIN, y: MARGIN, k, frame: [MARGIN, MARGIN, MARGIN + w, MARGIN + h] });
    const { reach } = statistics(block, allGroups(block));
    if (!isPoints() || !state.layers.lens || reach * block.stride * k > 60) return;
    // The lens is in the corner that is farthest from the token.
    const side = Math.min(210, w / 3, h / 2), [cx, cy] = centre(block, t);
    const zoom = Math.min(Math.max((0.48 * side) / reach, 8), 40) / block.stride;
    const left = MARGIN + (cx * k < w / 2 ? w - side - 8 : 8), top = MARGIN + (cy * k < h / 2 ? h - side - 8 : 8);
    const x = left + side / 2 - cx * zoom, y = top + side / 2 - cy * zoom;
    pen.clip(left, top, side, side, () => {
      pen.path([left, top, left + side, top, left + side, top + side, left, top + side], { fill: '#eceff2' });
      pen.image(panel.picture, x, y, IMAGE.width * zoom, IMAGE.height * zoom);
      pen.path([left, top, left + side, top, left + side, top + side, left, top + side], { fill: '#fff', alpha: 0.5 });
      drawToken(pen, block, t, { x, y, k: zoom, frame: [left, top, left + side, top + side].map((v, i) => v + (i < 2 ? -1e4 : 1e4)) });
    });
    pen.path([left, top, left + side, top, left + side, top + side, left, top + side], { stroke: '#1b1f24', width: 1.25 });
  }

  /** A token and its samples. `at` maps pixels of the image: origin x, y, scale k, visible frame. */
  function drawToken(pen, block, t, { x: left, y: top, k, frame }) {
    const column = t % block.width, row = Math.floor(t / block.width), cell = block.stride * k;
    const cx = left + (column + 0.5) * cell, cy = top + (row + 0.5) * cell;
    if (state.view !== 'chain') {
      if (state.axis !== 'column') pen.path([frame[0], cy, frame[2], cy], { stroke: AXIS_COLOURS[ROW], width: 1, alpha: 0.55, closed: false });
      if (state.axis !== 'row') pen.path([cx, frame[1], cx, frame[3]], { stroke: AXIS_COLOURS[COLUMN], width: 1, alpha: 0.55, closed: false });
    }
    for (const axis of isPoints() ? axes() : []) {
      const unit = Math.min(6.5, Math.max(3.2, cell * 0.22)), [start, end] = axis === ROW ? [frame[0], frame[2]] : [frame[1], frame[3]];
      for (let g = 0; g < block.groups; g++) {
        const p = position(block, axis, g, t), outside = isOutside(block, axis, p), colour = groupColour(block, g);
        const r = unit * Math.sqrt(3 * block.weight[axis][g]) * (state.group === g ? 1.5 : 1);
        let at = (axis === ROW ? left : top) + (p + 0.5) * cell;
        // Beyond the border the distance is drawn on a logarithmic scale, within the margin.
        if (at < start) at = start - Math.min(3 + 4 * Math.log1p((start - at) / 8), MARGIN - 10);
        if (at > end) at = end + Math.min(3 + 4 * Math.log1p((at - end) / 8), MARGIN - 10);
        const [x, y] = axis === ROW ? [at, cy] : [cx, at];
        if (state.group >= 0 && state.group !== g) pen.disc(x, y, 1.5, '#59636e', null, 0, 0.4);
        else if (outside) pen.disc(x, y, Math.max(r - 1, 2), '#fff', colour, 2);
        else pen.disc(x, y, r, colour, '#fff', 1.25);
      }
    }
    const side = Math.max(cell, 5), x = cx - side / 2, y = cy - side / 2;
    const corners = [x, y, x + side, y, x + side, y + side, x, y + side];
    pen.path(corners, { stroke: '#fff', width: 4 });
    pen.path(corners, { stroke: '#000', width: state.pin ? 2.25 : 1.5 });
  }

  // ---- panels: one per checkpoint

  const panels = [];
  function makePanels() {
    for (const model of models) {
      const figure = document.createElement('figure'), element = document.createElement('div');
      element.className = 'panel'; element.tabIndex = 0;
      element.setAttribute('role', 'application');
      element.setAttribute('aria-label', `The image and its tokens in ${model.name}: arrow keys move the token`);
      const base = makeCanvas(1, 1), over = makeCanvas(1, 1), caption = document.createElement('figcaption');
      element.append(base, over);
      figure.append(element);
      if (models.length > 1) { caption.textContent = model.name; figure.prepend(caption); }
      $('panels').append(figure);
      const panel = { model, element, base, over, picture };
      panels.push(panel);
      element.addEventListener('pointermove', (event) => hover(panel, event));
      element.addEventListener('pointerleave', () => { kept = focus(); hovered = null; });
      element.addEventListener('click', (event) => click(panel, event));
    }
  }

  function layout() {
    const columns = models.length > 1 && innerWidth > 860 ? 2 : 1;
    const room = ($('figure').clientWidth - 16 * (columns - 1)) / columns - 2 * MARGIN;
    const ratio = devicePixelRatio || 1;
    for (const panel of panels) {
      panel.k = Math.max(0.05, Math.min(room / IMAGE.width, Math.max(260, innerHeight * 0.74) / IMAGE.height));
      const size = [IMAGE.width * panel.k + 2 * MARGIN, IMAGE.height * panel.k + 2 * MARGIN].map(Math.ceil);
      for (const canvas of [panel.base, panel.over]) {
        canvas.width = size[0] * ratio; canvas.height = size[1] * ratio;
        canvas.style.width = `${size[0]}px`; canvas.style.height = `${size[1]}px`;
      }
      panel.element.style.width = `${size[0]}px`;
    }
  }

  function onCanvas(canvas, draw) {
    const context = canvas.getContext('2d'), ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    draw(new CanvasPen(context));
  }
  const drawAllBase = () => panels.forEach((p) => onCanvas(p.base, (pen) => drawBase(pen, p, p.k)));
  const drawAllOver = () => panels.forEach((p) => onCanvas(p.over, (pen) => drawOver(pen, p, p.k)));

  function spotOf(panel, event) {
    const area = panel.element.getBoundingClientRect();
    const x = (event.clientX - area.left - MARGIN) / panel.k, y = (event.clientY - area.top - MARGIN) / panel.k;
    return [Math.min(Math.max(x, 0), IMAGE.width - 0.01), Math.min(Math.max(y, 0), IMAGE.height - 0.01)];
  }

  let pending = 0;
  const times = []; // milliseconds that hovering took, in the handler and in the frame after it
  const timed = (action) => { const start = performance.now(); action(); return performance.now() - start; };
  function hover(panel, event) {
    if (event.pointerType === 'touch') return;
    const before = focus(), block = current();
    hovered = spotOf(panel, event);
    if (state.pin || state.subject !== 'token' || tokenAt(block, hovered) === tokenAt(block, before)) return;
    follower();
  }

  /** Redraw what follows the token: points at once, everything else in the next frame. */
  function follower() {
    const at = times.push(timed(() => { drawAllOver(); describe(); })) - 1;
    cancelAnimationFrame(pending);
    clearTimeout(follower.rest);
    const others = () => { if (!isPoints()) { drawAllBase(); drawLegend(); describe(); } drawHistograms(); drawThumbs(); };
    pending = requestAnimationFrame(() => {
      if (state.view === 'chain') follower.rest = setTimeout(others, 60); // takes longer than a frame
      else times[at] += timed(others);
    });
  }

  function click(panel, event) {
    const spot = spotOf(panel, event);
    if (state.subject !== 'token' && state.subject !== 'all' || event.shiftKey) {
      const region = regionAt(spot);
      if (region) { set({ subject: region }); return; }
    }
    if (state.subject !== 'token') return;
    const block = current();
    set({ pin: state.pin && tokenAt(block, state.pin) === tokenAt(block, spot) ? null : spot });
  }

  /** The smallest instance, or the segment, at a pixel. */
  function regionAt(spot) {
    const { found } = models[0];
    if (found.kind === 'labels') {
      const [x, y] = spot.map(Math.floor);
      return found.labels[y * found.width + x] in found.names ? `s${x},${y}` : null;
    }
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    const hits = found.kind === 'instances' ? found.items.map((item, i) => [area(item), `i${i}`]).filter(([, name]) => regionOf(name)(spot)) : [];
    return hits.length ? hits.reduce((a, b) => (b[0] < a[0] ? b : a))[1] : null;
  }

  // ---- charts

  function makeCharts() {
    models.forEach((model, i) => {
      const part = document.createElement('section');
      part.innerHTML = `<h3>Gate <small></small></h3><div class="weights"></div>
        <div class="gate"><canvas height="1" role="img"></canvas></div>
        <p class="chartnote">each column is a channel; <b class="row">row</b>, <b class="column">column</b>, <b class="own">own</b>. Click to choose its group.</p>
        <h3>Offsets <small>in tokens</small></h3><canvas class="histogram" height="1" role="img"></canvas><p class="chartnote outside"></p>`;
      if (models.length > 1) part.querySelector('small').textContent = model.name;
      $('charts').append(part);
      panels[i].chart = { weights: part.querySelector('.weights'), gate: part.querySelector('.gate canvas'), histogram: part.querySelector('.histogram'), outside: part.querySelector('.outside') };
      panels[i].chart.gate.addEventListener('click', (event) => {
        const block = current(model), area = event.currentTarget.getBoundingClientRect();
        const channel = Math.min(Math.floor(((event.clientX - area.left) / area.width) * block.channels), block.channels - 1);
        const group = Math.floor(channel / block.share);
        set({ group: group === state.group ? -1 : group });
      });
    });
  }

  function fit(canvas, height) {
    const ratio = devicePixelRatio || 1, width = canvas.parentElement.clientWidth || 300;
    canvas.width = width * ratio; canvas.height = height * ratio; canvas.style.height = `${height}px`;
    return width;
  }

  const percent = (v) => (v > 0 && v < 0.001 ? '<0.1' : (100 * v).toFixed(1)) + ' %';

  function drawGates() {
    for (const { model, chart } of panels) {
      const block = current(model), width = fit(chart.gate, 86);
      chart.weights.innerHTML = block.mean.map((v, k) => `<span style="flex:${v} 0 0;background:${AXIS_COLOURS[k]}">${['row', 'column', 'own'][k]} ${v.toFixed(3)}</span>`).join('');
      chart.weights.title = 'mean over the channels';
      chart.gate.setAttribute('aria-label', `Gate of block ${title(block)}: row ${block.mean[0].toFixed(3)}, column ${block.mean[1].toFixed(3)}, own ${block.mean[2].toFixed(3)} on average`);
      onCanvas(chart.gate, (pen) => {
        const step = width / block.channels;
        for (let c = 0; c < block.channels; c++) {
          let y = 0;
          const faint = state.group >= 0 && Math.floor(c / block.share) !== state.group;
          for (let k = 0; k < 3; k++) {
            const h = 82 * block.gate[k * block.channels + c];
            pen.path([c * step, y, (c + 1) * step + 0.5, y, (c + 1) * step + 0.5, y + h + 0.5, c * step, y + h + 0.5], { fill: AXIS_COLOURS[k], alpha: faint ? 0.25 : 1 });
            y += h;
          }
        }
        pen.path([0, 82, width, 82, width, 83, 0, 83], { fill: '#fff' });
        for (const third of [1, 2]) pen.path([0, (82 * third) / 3, width, (82 * third) / 3], { stroke: '#fff', width: 1, alpha: 0.8, closed: false });
        for (let g = 0; g < block.groups; g++) {
          const x = g * block.share * step;
          pen.path([x, 83, x + block.share * step, 83, x + block.share * step, 86, x, 86], { fill: groupColour(block, g) });
        }
      });
    }
  }

  function drawHistograms() {
    for (const { model, chart } of panels) {
      const block = current(model), width = fit(chart.histogram, 104), { axes: stats, reach, bins } = statistics(block, groups(block));
      const most = Math.max(...axes().map((a) => Math.max(...stats[a].counts)), 1), x = (d) => width / 2 + (d / reach) * (width / 2 - 1);
      onCanvas(chart.histogram, (pen) => {
        for (const tick of [-reach, -reach / 2, 0, reach / 2, reach]) {
          pen.path([x(tick), 6, x(tick), 78], { stroke: tick ? '#e6e9ed' : '#aab2bc', width: 1, closed: false });
          pen.text(Math.min(Math.max(x(tick), 17), width - 17), 102, tick ? (tick > 0 ? '+' : '−') + Number(Math.abs(tick).toPrecision(2)) : '0', '#59636e', 11, 'middle');
        }
        for (const axis of axes()) {
          const points = [];
          stats[axis].counts.forEach((n, i) => {
            const y = 78 - 70 * (n / most);
            points.push(x(((2 * i) / bins - 1) * reach), y, x(((2 * (i + 1)) / bins - 1) * reach), y);
          });
          pen.path([x(-reach), 78, ...points, x(reach), 78], { fill: AXIS_COLOURS[axis], alpha: 0.16 });
          pen.path(points, { stroke: AXIS_COLOURS[axis], width: 1.5, closed: false });
        }
        const spot = focus();
        if (state.subject === 'token' && spot && state.view === 'samples') {
          const t = tokenAt(block, spot);
          for (const axis of axes()) {
            for (const g of groups(block)) {
              const d = block.offset[(axis * block.groups + g) * block.tokens + t] * block.step;
              const at = x(Math.min(Math.max(d, -reach), reach));
              pen.path([at, 79 + 5 * axis, at, 83 + 5 * axis], { stroke: AXIS_COLOURS[axis], width: 1, alpha: 0.7, closed: false });
            }
          }
        }
      });
      const text = axes().map((a) => `<b class="${AXIS_NAMES[a]}">${percent(stats[a].outside)}</b> of the ${AXIS_NAMES[a]} samples`).join(' and ');
      chart.outside.innerHTML = `${text} leave the map. The mean distance is ${axes().map((a) => `<b class="${AXIS_NAMES[a]}">${stats[a].mean.toFixed(2)}</b>`).join(' and ')} tokens.`;
      chart.histogram.setAttribute('aria-label', `Histogram of offsets. ${chart.outside.textContent}`);
    }
  }

  // ---- overview

  const title = (block) => `${block.stage + 1}.${block.index + 1}`;

  function makeThumbs() {
    const stages = new Set(models[0].blocks.map((b) => b.stage));
    for (const stage of stages) {
      const row = document.createElement('div'), blocks = models[0].blocks.filter((b) => b.stage === stage);
      row.className = 'stagerow';
      row.innerHTML = `<p><b>Stage ${stage + 1}</b> ${blocks[0].height} × ${blocks[0].width} tokens<br>${blocks[0].groups} groups</p><div></div>`;
      for (const block of blocks) {
        const button = document.createElement('button'), label = document.createElement('span');
        button.type = 'button'; button.className = 'thumb'; button.dataset.block = block.number;
        label.textContent = block.generates ? `${title(block)} new` : `${title(block)} as ${stage + 1}.${block.generator + 1}`;
        button.title = block.generates ? 'generates its offsets' : `uses the offsets of block ${stage + 1}.${block.generator + 1}`;
        for (const panel of panels) {
          const canvas = makeCanvas(small.width, small.height), ratio = devicePixelRatio || 1;
          canvas.style.width = `${small.width / ratio}px`;
          button.append(canvas);
          (panel.thumbs ||= []).push(canvas);
        }
        button.append(label);
        button.addEventListener('click', () => set({ block: block.number }));
        row.lastChild.append(button);
      }
      $('thumbs').append(row);
    }
  }

  let thumbQueue = 0;
  function drawThumbs() {
    cancelAnimationFrame(thumbQueue);
    const jobs = models[0].blocks.flatMap((_, n) => panels.map((panel) => [panel, n]));
    // Heat maps of many blocks take longer than a frame.
    const work = () => {
      const start = performance.now();
      while (jobs.length && performance.now() - start < 8) drawThumb(...jobs.shift());
      if (jobs.length) thumbQueue = requestAnimationFrame(work);
    };
    work();
  }

  function drawThumb({ model, thumbs }, number) {
    const block = model.blocks[number], canvas = thumbs[number], context = canvas.getContext('2d');
    const k = small.width / IMAGE.width, spot = focus(), cell = block.stride * k;
    context.globalAlpha = 1;
    context.drawImage(small, 0, 0);
    if (!isPoints()) {
      const map = heatOf(model, block);
      if (!map) { context.fillStyle = 'rgba(255,255,255,.7)'; context.fillRect(0, 0, canvas.width, canvas.height); return; }
      context.imageSmoothingEnabled = true;
      context.drawImage(paintHeat(map, block.width, block.height), 0, 0, block.width * cell, block.height * cell);
      return;
    }
    if (!spot) return;
    const t = tokenAt(block, spot), [x, y] = centre(block, t).map((v) => v * k), dot = 2 * (devicePixelRatio || 1);
    for (const axis of axes()) {
      for (const g of groups(block)) {
        if (g >= block.groups) continue;
        const at = (position(block, axis, g, t) + 0.5) * cell;
        context.fillStyle = groupColour(block, g);
        context.fillRect((axis === ROW ? at : x) - dot / 2, (axis === ROW ? y : at) - dot / 2, dot, dot);
      }
    }
    context.strokeStyle = '#000'; context.lineWidth = devicePixelRatio || 1;
    context.strokeRect(x - dot, y - dot, 2 * dot, 2 * dot);
  }

  // ---- words

  const subjectName = () => {
    const { found } = models[0];
    if (state.subject === 'token') return 'the token';
    if (state.subject === 'all') return 'all tokens';
    if (state.subject[0] === 'i') return `all tokens of the ${found.names[found.items[state.subject.slice(1)].label]}`;
    if (state.subject[0] === 'c') return `all tokens of the class ${found.names[state.subject.slice(1)]}`;
    const [x, y] = state.subject.slice(1).split(',').map(Number);
    return `all tokens of this segment (${found.names[found.labels[y * found.width + x]]})`;
  };

  function writeCaption() {
    const block = current(), who = subjectName();
    const texts = {
      samples: state.subject === 'token'
        ? 'Where the token samples: per group of channels, one point of its row and one of its column. Larger points weigh more in the gate.'
        : state.subject === 'all' ? 'The effective field: how often each place is sampled by all tokens of this block.' : `Where ${who} sample in this block.`,
      reverse: state.subject === 'token'
        ? 'Who samples the token: tokens of its row and its column, brighter where they read more of it.'
        : `Who samples ${who} in this block.`,
      chain: `How far ${who} ${state.subject === 'token' ? 'sees' : 'see'}: samples followed back from the output of block ${title(block)} through all earlier blocks to the image.`,
    };
    $('caption').textContent = texts[state.view];
    $('overviewnote').textContent = state.view === 'chain' ? 'what is reached at the input of each block' : 'choose one to enlarge it';
  }

  function describe() {
    const block = current(), spot = focus(), parts = [];
    if (state.subject === 'token' && spot) {
      const t = tokenAt(block, spot);
      parts.push(`Token ${Math.floor(t / block.width) + 1}, ${(t % block.width) + 1} of ${block.height} × ${block.width}, block ${title(block)}${state.pin ? ', pinned' : ''}.`);
      if (isPoints()) {
        for (const axis of axes()) {
          const found = groups(block).map((g) => position(block, axis, g, t)), own = axis === ROW ? t % block.width : Math.floor(t / block.width);
          const outside = found.filter((p) => isOutside(block, axis, p)).length, signed = (d) => (d < 0 ? '−' : '+') + Math.abs(d).toFixed(2);
          const range = found.length === 1 ? signed(found[0] - own) : `${signed(Math.min(...found) - own)} to ${signed(Math.max(...found) - own)}`;
          parts.push(`Along its ${AXIS_NAMES[axis]}: ${range} tokens${outside ? `, ${outside} outside the map` : ''}.`);
        }
      }
    }
    if (state.view === 'chain' && chainCache[0]?.key === `${state.block} ${subjectKey(block)}`) {
      panels.forEach(({ model }) => {
        const radius = reachOf(model);
        parts.push(`${models.length > 1 ? `${model.name}: h` : 'H'}alf of what is seen lies within ${radius[0].toFixed(0)} pixels${state.subject === 'token' ? ' of the token' : ' of its centre'}, 90 % within ${radius[1].toFixed(0)}.`);
      });
    }
    if (state.view === 'reverse' && state.subject === 'token' && spot) {
      const map = heatOf(models[0], block);
      parts.push(`${map.reduce((n, v) => n + (v > 0), 0)} tokens sample it.`);
    }
    $('readout').textContent = parts.join(' ');
  }

  /** Radii, in pixels, that hold 50 and 90 % of a chain around its subject. */
  function reachOf(model) {
    const block = current(model), v = subjectWeights(block), first = model.blocks[0], map = chainOf(model)[0];
    let x = 0, y = 0;
    v.forEach((w, t) => { if (w) { const [cx, cy] = centre(block, t); x += w * cx; y += w * cy; } });
    const bins = new Float64Array(Math.ceil(Math.hypot(IMAGE.width, IMAGE.height)) + 64);
    let total = 0, sum = 0;
    for (let t = 0; t < map.length; t++) {
      if (!map[t]) continue;
      const [cx, cy] = centre(first, t);
      bins[Math.min(Math.floor(Math.hypot(cx - x, cy - y)), bins.length - 1)] += map[t]; total += map[t];
    }
    const result = [];
    for (let r = 0; r < bins.length && result.length < 2; r++) {
      sum += bins[r];
      while (result.length < 2 && sum >= [0.5, 0.9][result.length] * total) result.push(r + 1);
    }
    return result;
  }

  function drawLegend() {
    $('legend').firstChild?.remove();
    const canvas = makeCanvas(1, 1), width = Math.min($('legend').clientWidth - 20, 640), ratio = devicePixelRatio || 1;
    $('legend').append(canvas);
    const height = legendHeight(width);
    canvas.width = width * ratio; canvas.height = height * ratio;
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    onCanvas(canvas, (pen) => legend(pen, 0, 0, width));
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', isPoints() ? 'Colour: channel group. Size: weight in the gate. Ring: outside the map.' : 'Colour: how much, from none to the most.');
  }

  const labelled = () => (models[0].found.kind === 'labels' && state.layers.found && isPoints() && !state.cam ? Object.entries(models[0].found.names) : []);
  const legendHeight = (width) => (width < 420 ? 62 : 38) + (labelled().length ? 18 : 0);

  function legend(pen, x, y, width) {
    const block = current();
    let left = x;
    for (const [label, name] of labelled()) { // as many classes as fit
      const top = y + legendHeight(width) - 16, length = 20 + 6.4 * name.length;
      if (left + length > x + width) break;
      pen.path([left, top, left + 10, top, left + 10, top + 10, left, top + 10], { fill: `rgb(${rgbOf(models[0].found, label)})`, alpha: 0.7 });
      pen.text(left + 14, top + 9, name, '#59636e', 11);
      left += length + 6;
    }
    const bar = (x0, colour) => { for (let i = 0; i < 60; i++) pen.path([x0 + 2 * i, y + 6, x0 + 2 * i + 2.2, y + 6, x0 + 2 * i + 2.2, y + 16, x0 + 2 * i, y + 16], { fill: colour(i / 59) }); };
    if (state.cam || !isPoints()) {
      bar(x, (t) => `rgb(${heatColour(t)})`);
      if (state.cam) {
        pen.text(x, y + 30, 'none', '#59636e', 11);
        pen.text(x + 120, y + 30, 'most', '#59636e', 11, 'end');
      } else {
        const { least, most, mean } = scaleOf(heatOf(models[0], state.view === 'chain' ? models[0].blocks[0] : block));
        const times = (v) => `${v ? (v / mean).toPrecision(3) : 0}×`;
        pen.text(x, y + 30, times(least), '#59636e', 11);
        pen.text(x + 120, y + 30, times(most), '#59636e', 11, 'end');
        pen.text(x + 132, y + 16, `times the mean; ${state.subject === 'all' ? 'linear' : 'square-root'} scale`, '#59636e', 11);
      }
      return;
    }
    bar(x, (t) => `rgb(${viridis(t)})`);
    pen.text(x, y + 30, 'group 1', '#59636e', 11);
    pen.text(x + 120, y + 30, String(block.groups), '#59636e', 11, 'end');
    const wrap = width < 420, x1 = wrap ? x : x + 150, y1 = wrap ? y + 46 : y + 11;
    [0.15, 0.33, 0.6].forEach((v, i) => pen.disc(x1 + 8 + 18 * i, y1, 5 * Math.sqrt(3 * v), '#59636e', '#fff', 1));
    pen.text(x1 + 58, y1 + 4, 'weight in the gate', '#59636e', 11);
    pen.disc(x1 + 172, y1, 4, '#fff', '#59636e', 2);
    pen.text(x1 + 181, y1 + 4, 'outside the map', '#59636e', 11);
  }

  // ---- controls

  function choice(id, entries, chosen, action) {
    const parent = $(id);
    parent.replaceChildren(...entries.map(([value, text, name]) => {
      const button = document.createElement('button');
      button.type = 'button'; button.textContent = text; button.dataset.value = value;
      if (name) button.title = name;
      button.setAttribute('aria-pressed', chosen(value));
      button.addEventListener('click', () => action(value));
      return button;
    }));
  }
  const press = (id, chosen) => { for (const b of $(id).children) b.setAttribute('aria-pressed', chosen(b.dataset.value)); };

  function makeControls() {
    choice('view', Object.entries(VIEWS), () => false, (view) => set({ view }));
    choice('axis', Object.entries(AXES), () => false, (axis) => set({ axis }));
    const layers = Object.entries(LAYERS).filter(([name]) => name !== 'found' || ['instances', 'labels'].includes(models[0].found.kind));
    choice('layers', layers, () => false, (name) => set({ layers: { ...state.layers, [name]: !state.layers[name] } }));
    const stages = [...new Set(models[0].blocks.map((b) => b.stage))];
    choice('stage', stages.map((s) => [s, String(s + 1), `stride ${4 * 2 ** s}`]), () => false, (s) => setStage(Number(s)));
    const { found } = models[0];
    const items = found.kind === 'instances' ? found.items.map((item, i) => [`i${i}`, `${found.names[item.label]} ${item.score.toFixed(2)}`])
      : found.kind === 'labels' ? Object.entries(found.names).map(([label, name]) => [`c${label}`, name]) : [];
    const options = [['token', 'one token'], ['all', 'all tokens'], ...items];
    $('subject').replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    $('subject').addEventListener('change', (event) => set({ subject: event.target.value }));
    const names = [...new Set(models.flatMap((m) => m.cams.map((c) => c.name)))];
    $('camrow').hidden = !names.length;
    $('camrow').style.display = names.length ? '' : 'none';
    if (!names.includes(state.cam)) state.cam = '';
    $('cam').replaceChildren(new Option('none', ''), ...names.map((n) => new Option(n, n)));
    $('cam').addEventListener('change', (event) => set({ cam: event.target.value }));
    $('group').addEventListener('change', (event) => set({ group: Number(event.target.value) }));
    $('before').addEventListener('click', () => stepGroup(-1));
    $('after').addEventListener('click', () => stepGroup(1));
    $('svg').addEventListener('click', saveSvg);
    $('png').addEventListener('click', savePng);
    $('keys').addEventListener('click', () => $('help').showModal());
    $('tour').addEventListener('click', () => showStep(0));
    $('back').addEventListener('click', () => showStep(step - 1));
    $('next').addEventListener('click', () => showStep(step + 1));
    $('close').addEventListener('click', () => showStep(-1));
    $('what').textContent = [DATA.title, models.map((m) => m.name).join(' and '), `${IMAGE.name}, ${IMAGE.width} × ${IMAGE.height}`, ...(found.kind === 'classes' ? [found.items.map((i) => `${found.names[i.label]} ${i.score.toFixed(2)}`).slice(0, 2).join(', ')] : [])].join(' · ');
  }

  function writeControls() {
    const block = current();
    press('view', (v) => v === state.view);
    press('axis', (v) => v === state.axis);
    press('layers', (v) => state.layers[v]);
    press('stage', (v) => Number(v) === block.stage);
    const blocks = models[0].blocks.filter((b) => b.stage === block.stage);
    choice('block', blocks.map((b) => [b.number, String(b.index + 1), b.generates ? 'generates its offsets' : `uses the offsets of block ${b.generator + 1}`]), (n) => n === state.block, (n) => set({ block: Number(n) }));
    blocks.forEach((b, i) => $('block').children[i].classList.toggle('new', b.generates));
    $('source').textContent = block.generates ? 'Generates its offsets (underlined blocks do).' : `Uses the offsets of block ${block.generator + 1}, with a gate of its own.`;
    $('group').replaceChildren(new Option(`all ${block.groups}`, -1), ...allGroups(block).map((g) => new Option(`${g + 1} (channels ${g * block.share + 1}–${(g + 1) * block.share})`, g)));
    $('group').value = state.group;
    $('cam').value = state.cam;
    for (const option of [...$('subject').options]) if (option.value[0] === 's' && option.value !== state.subject) option.remove();
    if (![...$('subject').options].some((o) => o.value === state.subject)) $('subject').append(new Option('this segment', state.subject));
    $('subject').value = state.subject;
    for (const button of document.querySelectorAll('.thumb')) button.setAttribute('aria-pressed', Number(button.dataset.block) === state.block);
  }

  function setStage(stage) {
    const blocks = models[0].blocks.filter((b) => b.stage === stage), index = current().index;
    if (blocks.length) set({ block: blocks[Math.min(index, blocks.length - 1)].number });
  }
  const stepBlock = (by) => set({ block: Math.min(Math.max(state.block + by, 0), models[0].blocks.length - 1) });
  const stepGroup = (by) => { const n = current().groups + 1; set({ group: ((state.group + 1 + by + n) % n) - 1 }); };
  const cycle = (names, name) => names[(names.indexOf(name) + 1) % names.length];

  function set(change) {
    Object.assign(state, change);
    if (!(state.group < current().groups)) state.group = -1;
    redraw();
    writeAddress();
  }

  function redraw() {
    writeControls(); writeCaption();
    drawAllBase(); drawAllOver(); drawGates(); drawHistograms(); drawThumbs(); drawLegend(); describe();
  }

  function move(dx, dy) {
    const block = current(), [x, y] = centre(block, tokenAt(block, focus()));
    const clamp = (v, size) => Math.min(Math.max(v, block.stride / 2), (Math.ceil(size / block.stride) - 0.5) * block.stride);
    const spot = [clamp(x + dx * block.stride, block.width * block.stride), clamp(y + dy * block.stride, block.height * block.stride)];
    set({ subject: 'token', pin: [Math.min(spot[0], IMAGE.width - 0.5), Math.min(spot[1], IMAGE.height - 0.5)] });
  }

  const KEYS = [
    ['← → ↑ ↓', 'move the token; with Shift by five', null],
    ['Enter', 'pin or free the token', () => set({ pin: state.pin ? null : focus() })],
    ['Esc', 'free the token, close the tour', null],
    ['[', 'previous block', () => stepBlock(-1)],
    [']', 'next block', () => stepBlock(1)],
    ['1', 'to 4: stage', null],
    ['v', 'next view: samples, reverse, chain', () => set({ view: cycle(Object.keys(VIEWS), state.view) })],
    ['t', 'one token', () => set({ subject: 'token' })],
    ['a', 'all tokens', () => set({ subject: 'all' })],
    ['r', 'next box or class of the prediction', () => { const names = [...$('subject').options].map((o) => o.value).slice(2); if (names.length) set({ subject: cycle(names, state.subject) }); }],
    ['x', 'next axis', () => set({ axis: cycle(Object.keys(AXES), state.axis) })],
    ['-', 'previous group', () => stepGroup(-1)],
    ['+', 'next group', () => stepGroup(1)],
    ['g', 'grid', () => toggle('grid')],
    ['f', 'what the model found', () => toggle('found')],
    ['d', 'fade the image', () => toggle('fade')],
    ['l', 'lens, where tokens are small', () => toggle('lens')],
    ['s', 'save an SVG file', () => saveSvg()],
    ['p', 'save a PNG file', () => savePng()],
    ['?', 'these keys', () => $('help').showModal()],
  ];
  const toggle = (name) => set({ layers: { ...state.layers, [name]: !state.layers[name] } });
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
    if (event.key === 'Escape') { if (step >= 0) showStep(-1); else { kept = focus(); set({ pin: null }); } return; }
    if (event.target.closest('select')) return;
    if (event.key === 'Enter' && event.target.closest('button, summary')) return;
    if (event.key in ARROWS) {
      const by = event.shiftKey ? 5 : 1;
      move(...ARROWS[event.key].map((v) => v * by));
    } else if (/^[1-4]$/.test(event.key)) setStage(Number(event.key) - 1);
    else {
      const entry = KEYS.find(([key]) => key === event.key || (key === '+' && event.key === '='));
      if (!entry?.[2]) return;
      entry[2]();
    }
    event.preventDefault();
  }

  // ---- files

  function composed(make, scale) {
    const gap = 12, k = panels[0].k, width = IMAGE.width * k + 2 * MARGIN, height = IMAGE.height * k + 2 * MARGIN;
    const size = [panels.length * width + gap * (panels.length - 1), height + legendHeight(640) + 4].map(Math.ceil);
    return make(size, (pen, shift) => {
      panels.forEach((panel, i) => shift(i * (width + gap), 0, () => { drawBase(pen, panel, k); drawOver(pen, panel, k); }));
      shift(MARGIN, height, () => legend(pen, 0, 0, 640));
    }, scale);
  }
  function saveSvg() {
    const text = composed((size, draw) => {
      const pen = new SvgPen();
      draw(pen, (x, y, body) => { pen.parts.push(`<g transform="translate(${x} ${y})">`); body(); pen.parts.push('</g>'); });
      return pen.file(...size);
    });
    download(new Blob([text], { type: 'image/svg+xml' }), 'svg');
  }
  function savePng() {
    composed((size, draw, scale) => {
      const canvas = makeCanvas(size[0] * scale, size[1] * scale), context = canvas.getContext('2d');
      context.scale(scale, scale); context.fillStyle = '#fff'; context.fillRect(0, 0, ...size);
      draw(new CanvasPen(context), (x, y, body) => { context.save(); context.translate(x, y); body(); context.restore(); });
      canvas.toBlob((blob) => download(blob, 'png'));
    }, 3);
  }
  function download(blob, kind) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `look-${title(current())}-${state.view}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // ---- tour

  let step = -1;
  const STEPS = [
    ['An image becomes tokens', 'The network cuts the image into tokens, here the cells of the grid. A token is a vector of channels. To understand an image, tokens must exchange what they know.', { view: 'samples', subject: 'token', axis: 'both', group: -1 }, 'panels'],
    ['Each token looks along its row', 'Active Token Mixer lets every token choose where to look. It predicts offsets, and reads one value along its row for each group of channels, between two tokens if need be.', { view: 'samples', subject: 'token', axis: 'row', group: -1 }, 'axis'],
    ['… and along its column', 'The same happens along the column, with offsets of its own. So a token reads far away at little cost: one value per channel, row and column.', { view: 'samples', subject: 'token', axis: 'column', group: -1 }, 'axis'],
    ['A gate weighs three answers', 'Row, column and the token’s own channels are weighed against each other, for every channel anew in each image. Larger points weigh more.', { view: 'samples', subject: 'token', axis: 'both', group: -1 }, 'charts'],
    ['Blocks share offsets', 'Only some blocks predict offsets, underlined here. Those after them use the same again, with their own gates. Channels share offsets in groups: choose one to see it alone.', { view: 'samples', subject: 'token', axis: 'both', group: 0 }, 'block'],
    ['Together they see the image', 'Follow the samples back, block by block, and a token at the end sees much of the image. That is the chain; reverse shows who looks at a token.', { view: 'chain', subject: 'token', axis: 'both', group: -1, block: 'last' }, 'view'],
  ];
  function showStep(n) {
    document.querySelectorAll('.shown').forEach((e) => e.classList.remove('shown'));
    if (n >= STEPS.length) n = -1;
    if (step < 0 && n >= 0) showStep.saved = { ...state };
    if (step >= 0 && n < 0) set(showStep.saved);
    step = n;
    $('card').hidden = n < 0;
    if (n < 0) { $('tour').focus({ preventScroll: true }); return; }
    const [heading, text, change, target] = STEPS[n];
    $('step').textContent = `${n + 1} of ${STEPS.length}`;
    $('cardtitle').textContent = heading; $('cardtext').textContent = text;
    $('back').disabled = n === 0;
    $('next').textContent = n === STEPS.length - 1 ? 'Done' : 'Next';
    const block = change.block === 'last' ? models[0].blocks.length - 1 : showStep.saved.block;
    set({ ...change, block, cam: '', pin: state.pin || focus() });
    $(target).classList.add('shown');
    $(target).scrollIntoView({ block: 'nearest' });
    $('next').focus({ preventScroll: true });
  }

  // ---- start

  const METHOD = [
    'Positions come from the model as it ran on this image. A sample between two tokens is interpolated from both; tokens outside the map count as zero.',
    'A token is drawn as a cell of stride × stride pixels, and position p of a sample at the centre of cell p.',
    'The size of a point is the mean gate weight of its group’s channels.',
    'Samples, reverse and effective field add up gate weights, split between the two tokens that a sample is interpolated from.',
    'A chain follows weights backwards. In every block half passes by on the residual connection, as in attention rollout, and half is spread over samples and the token itself as the gate weighs them. The convolutions between stages spread it over their kernels so that every place counts the same. The 3×3 positional convolutions and what the weights of linear layers emphasize are left out, so a chain shows where information can come from, not how strongly it acts.',
    `Offsets are rounded for size: ${DATA.rounding}.`,
  ];

  const picture = new Image();
  picture.src = IMAGE.source;
  await picture.decode();
  models.push(...await Promise.all(DATA.models.map(unpackModel)));
  grey = makeCanvas(IMAGE.width, IMAGE.height);
  {
    const context = grey.getContext('2d', { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, IMAGE.width, IMAGE.height), { data } = pixels;
    for (let i = 0; i < data.length; i += 4) data[i] = data[i + 1] = data[i + 2] = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
    context.putImageData(pixels, 0, 0);
    const width = Math.round(Math.min(132, (96 * IMAGE.width) / IMAGE.height) * (devicePixelRatio || 1));
    small = makeCanvas(width, Math.max(Math.round((width * IMAGE.height) / IMAGE.width), 1));
    const pen = small.getContext('2d');
    pen.drawImage(grey, 0, 0, small.width, small.height);
    pen.fillStyle = 'rgba(255,255,255,.55)'; pen.fillRect(0, 0, small.width, small.height);
  }
  {
    const item = models[0].found.kind === 'instances' && models[0].found.items[0];
    kept = item ? [(item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2] : [IMAGE.width / 2, IMAGE.height / 2];
    kept = kept.map((v, i) => Math.min(Math.max(v, 0), [IMAGE.width, IMAGE.height][i] - 1));
    const last = models[0].blocks[models[0].blocks.length - 1].stage, start = models[0].blocks.filter((b) => b.stage === Math.min(2, last) && b.generates);
    state.block = start[start.length - 1].number;
  }
  makePanels(); makeCharts(); makeThumbs();
  readAddress();
  makeControls();
  $('keytable').innerHTML = KEYS.map(([key, text]) => `<tr><td><kbd>${key}</kbd></td><td>${text}</td></tr>`).join('');
  $('method').innerHTML = METHOD.map((text) => `<li>${text}</li>`).join('');
  layout(); redraw();
  addEventListener('resize', () => { layout(); redraw(); });
  addEventListener('hashchange', () => { readAddress(); redraw(); });
  addEventListener('keydown', pressed);
  window.look = { state, times, models, heatOf, chainOf, current }; // for scripts and tests
  document.body.dataset.ready = '1';
})();
