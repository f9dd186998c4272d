// Weights as a page holds them, and products with them.
//
// A table is {rows, columns, numbers, scale}: numbers row by row, in float32 or int8, and of int8 a scale for each row.
// Sums are made in float64, which costs nothing here, and rounded to float32.

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}

// A number of 16 bits: 1 for the sign, 5 for the exponent, 10 for the fraction (IEEE 754).
function fromFloat16(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}

// A tensor of the page, {shape, kind, data, scale}, as a table; one of a single axis has one row.
function table({ shape, kind, data, scale }) {
  const buffer = bytesOf(data), columns = shape[shape.length - 1], rows = shape.length > 1 ? shape[0] : 1;
  const scales = scale ? new Float32Array(bytesOf(scale)) : null;
  if (kind === "int8") return { rows, columns, numbers: new Int8Array(buffer), scale: scales };
  if (kind === "float32") return { rows, columns, numbers: new Float32Array(buffer), scale: null };
  const values = Float32Array.from({ length: 65536 }, (_, bits) => fromFloat16(bits));
  return { rows, columns, numbers: Float32Array.from(new Uint16Array(buffer), (bits) => values[bits]), scale: null };
}

// Adds row `index` of a table to `y [columns]` at `at`.
function addRow({ columns, numbers, scale }, index, y, at) {
  const from = index * columns, factor = scale ? scale[index] : 1;
  for (let i = 0; i < columns; i++) y[at + i] += numbers[from + i] * factor;
}

// `x [count, columns]` times the rows of a table, plus `bias [rows]` where it is not null: [count, rows].
function product(map, bias, x, count) {
  const { rows, columns, numbers, scale } = map, y = new Float32Array(count * rows);
  const wide = new Float64Array(x);
  let t = 0;
  for (; t + 4 <= count; t += 4) fourPositions(numbers, rows, columns, wide, y, t);
  for (; t < count; t++) onePosition(numbers, rows, columns, wide, y, t);
  if (scale || bias) {
    for (let at = 0, t = 0; t < count; t++) {
      for (let r = 0; r < rows; r++, at++) y[at] = y[at] * (scale ? scale[r] : 1) + (bias ? bias[r] : 0);
    }
  }
  return y;
}

// Two rows and four positions at a time, so that each weight is fetched once for four products.
function fourPositions(numbers, rows, columns, x, y, t) {
  const x0 = t * columns, x1 = x0 + columns, x2 = x1 + columns, x3 = x2 + columns;
  const y0 = t * rows, y1 = y0 + rows, y2 = y1 + rows, y3 = y2 + rows;
  for (let r = 0; r < rows; r += 2) {
    const last = r + 1 === rows ? r : r + 1, w0 = r * columns, w1 = last * columns;
    let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
    for (let i = 0; i < columns; i++) {
      const a = numbers[w0 + i], b = numbers[w1 + i];
      const p0 = x[x0 + i], p1 = x[x1 + i], p2 = x[x2 + i], p3 = x[x3 + i];
      a0 += a * p0;
      a1 += a * p1;
      a2 += a * p2;
      a3 += a * p3;
      b0 += b * p0;
      b1 += b * p1;
      b2 += b * p2;
      b3 += b * p3;
    }
    y[y0 + r] = a0;
    y[y1 + r] = a1;
    y[y2 + r] = a2;
    y[y3 + r] = a3;
    y[y0 + last] = b0;
    y[y1 + last] = b1;
    y[y2 + last] = b2;
    y[y3 + last] = b3;
  }
}

// Four rows at a time, so that each number of the position is fetched once for all of them.
function onePosition(numbers, rows, columns, x, y, t) {
  const from = t * columns, to = t * rows;
  let r = 0;
  for (; r + 4 <= rows; r += 4) {
    let a = 0, b = 0, c = 0, d = 0, w0 = r * columns, w1 = w0 + columns, w2 = w1 + columns, w3 = w2 + columns;
    for (let i = 0; i < columns; i++) {
      const value = x[from + i];
      a += numbers[w0 + i] * value;
      b += numbers[w1 + i] * value;
      c += numbers[w2 + i] * value;
      d += numbers[w3 + i] * value;
    }
    y[to + r] = a;
    y[to + r + 1] = b;
    y[to + r + 2] = c;
    y[to + r + 3] = d;
  }
  for (; r < rows; r++) {
    let a = 0;
    for (let i = 0; i < columns; i++) a += numbers[r * columns + i] * x[from + i];
    y[to + r] = a;
  }
}
