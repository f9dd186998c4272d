/* One token more of each row: a list of steps that `program.py` writes down from a model's modules, once, and that run
   here without an operator's costs between them.

   Weights [n, k] lie in panels of 16 outputs, [n / 16, k, 16], so that a product reads them in one stream, at the speed
   of memory, and needs no sum across lanes: outputs are lanes, and each is summed in the order of k, whatever the
   rows. A weight is float32, bfloat16, or int8 with a scale for each output; sums are in float32. Threads share the
   outputs of a product, the heads of attention, and rows otherwise; those of a population have its members apart. */
#include "lanes.h"
#include "step.h"

#include <math.h>
#include <string.h>

enum { PANEL = 16, TOGETHER = 6 };

typedef short shorts __attribute__((vector_size(2 * WIDE), aligned(2), may_alias));

/* The weights of 16 outputs; int8 ones lie in pairs, of outputs n and n + 8. */
static inline void weights(int format, const void *panel, long i, lanes pair[2]) {
    if (format == INT8) {
        flags both = __builtin_convertvector(*(const shorts *)((const signed char *)panel + i), flags);
        pair[0] = __builtin_convertvector(both << 24 >> 24, lanes);
        pair[1] = __builtin_convertvector(both >> 8, lanes);
    } else each(j, 2) {
        if (format == FLOAT32) pair[j] = at((const float *)panel + i + j * WIDE);
        else pair[j] = (lanes)(__builtin_convertvector(((const shorts *)panel)[i / WIDE + j], flags) << 16);
    }
}

/* Outputs `first` to `first` + 16 of `rows` rows, at most 6, from number `row` on. The first rows of a panel fetch the
   next one into the cache, so that memory is read while sums are computed. */
static inline __attribute__((always_inline)) void panel(int format, long rows, const Step *s, long member, long row,
                                                        long first, int fetch) {
    long start = member * s->stride + first * s->inner, vector = member * s->out + first;
    const float *x = s->from + row * s->in;
    lanes sums[TOGETHER][2] = {{{0}}};
    long bytes = PANEL * (format == FLOAT32 ? 4 : format == BFLOAT16 ? 2 : 1);
    const char *next = (const char *)s->weight + (start / PANEL + s->inner) * bytes;
    each(k, s->inner) {
        lanes pair[2];
        if (fetch) __builtin_prefetch(next + k * bytes);
        weights(format, s->weight, start + k * PANEL, pair);
        each(r, rows) each(j, 2) sums[r][j] += x[r * s->in + k] * pair[j];
    }
    each(r, rows) each(j, 2) {
        float *to = s->to + (row + r) * s->out + first + j * WIDE;
        lanes y = sums[r][j], slope;
        if (s->scale) y *= at(s->scale + vector + j * WIDE);
        if (s->bias) y += at(s->bias + vector + j * WIDE);
        y = activated(s->activation, y, &slope);
        set(to, s->add ? at(to) + y : y);
    }
}

static inline __attribute__((always_inline)) void panels(int format, const Step *s, long member, long rows,
                                                         long part, long parts) {
    long count = s->out / PANEL, end = (part + 1) * count / parts * PANEL;
    for (long first = part * count / parts * PANEL; first < end; first += PANEL) {
        long row = member * rows, stop = row + rows;
        if (rows >= TOGETHER) panel(format, TOGETHER, s, member, row, first, 1), row += TOGETHER;
        for (; row + TOGETHER <= stop; row += TOGETHER) panel(format, TOGETHER, s, member, row, first, 0);
        if (row + 4 <= stop) panel(format, 4, s, member, row, first, rows == 4 || rows == 5), row += 4;
        for (; row < stop; row++) panel(format, 1, s, member, row, first, 0);
    }
}

static void multiply(const Step *s, long member, long rows, long part, long parts) {
    if (s->format == FLOAT32) panels(FLOAT32, s, member, rows, part, parts);
    if (s->format == BFLOAT16) panels(BFLOAT16, s, member, rows, part, parts);
    if (s->format == INT8) panels(INT8, s, member, rows, part, parts);
}

/* Stores key and value of head `key`, and attends to all of the row so far, eight keys at a time, the sum scaled anew
   wherever a larger score comes (Milakov & Gimelshein 2018). */
static void attend_to(const Step *s, const Rows *rows, long row, long key) {
    long D = s->size, length = rows->lengths[row], share = s->queries / s->keys;
    const float *x = s->from + row * s->in;
    float *k = rows->k + ((s->layer * rows->held + row) * s->keys + key) * rows->room * D;
    float *v = rows->v + (k - rows->k), q[D];
    turn(s->rotation, s->positions, D, length, 1, 1, x + (s->queries + key) * D, k + length * D);
    memcpy(v + length * D, x + (s->queries + s->keys + key) * D, D * sizeof *v);
    for (long head = key * share; head < (key + 1) * share; head++) {
        float high = -INFINITY, total = 0, *y = s->to + row * s->out + head * D;
        turn(s->rotation, s->positions, D, length, 1, 1 / sqrtf(D), x + head * D, q);
        memset(y, 0, D * sizeof *y);
        for (long from = 0; from <= length; from += WIDE) {
            long here = length + 1 - from < WIDE ? length + 1 - from : WIDE;
            lanes scores = all(-INFINITY);
            each(j, here) {
                lanes dot = all(0);
                eight(i, D) dot += at(q + i) * at(k + (from + j) * D + i);
                scores[j] = sum(dot);
            }
            float most = largest(scores), higher = most > high ? most : high;
            lanes p = exponential(scores - higher), kept = exponential(all(high - higher));
            high = higher, total = total * kept[0] + sum(p);
            eight(i, D) {
                lanes value = at(y + i) * kept[0];
                each(j, here) value += p[j] * at(v + (from + j) * D + i);
                set(y + i, value);
            }
        }
        eight(i, D) set(y + i, at(y + i) / total);
    }
}

/* LayerNorm (Ba 2016) of one row, or RMSNorm (Zhang & Sennrich 2019) unless `centred`; weight and bias may be null. */
static void norm_of(const float *x, const float *weight, const float *bias, long size, float eps, int centred,
                           float *y) {
    lanes total = all(0), squares = all(0);
    if (centred) eight(i, size) total += at(x + i);
    float mean = sum(total) / size;
    eight(i, size) squares += (at(x + i) - mean) * (at(x + i) - mean);
    float scale = 1 / sqrtf(sum(squares) / size + eps);
    eight(i, size) {
        lanes value = (at(x + i) - mean) * scale;
        if (weight) value *= at(weight + i);
        if (bias) value += at(bias + i);
        set(y + i, value);
    }
}

static void row_step(const Step *s, const Rows *rows, long member, long row) {
    const float *x = s->from + row * s->in, *table = (const float *)s->weight + member * s->stride;
    float *y = s->to + row * s->out;
    if (s->kind == EMBED) {
        const float *new = table + rows->token[row] * s->size, *old = table + rows->previous[row] * s->size;
        eight(i, s->size) {
            lanes shift = s->bias ? at(old + i) * at(s->bias + member * s->size + i) : all(0); /* token shift */
            set(y + i, at(new + i) + shift);
        }
    }
    if (s->kind == PLACE) eight(i, s->size) set(y + i, at(y + i) + at(table + rows->lengths[row] * s->size + i));
    if (s->kind == NORM)
        each(n, s->count) {
            long at_n = s->first + n * s->size;
            norm_of(x + at_n, s->weight ? table : 0, s->bias ? s->bias + member * s->stride : 0, s->size, s->eps,
                    s->centred, y + at_n);
        }
    if (s->kind == GATE)
        eight(i, s->inner) set(y + i, at(x + i) / (1.0f + exponential(-at(x + i))) * at(x + s->inner + i));
}

static void step(const Step *s, const Rows *rows, long member, long part, long parts) {
    long first = member * rows->rows, units = rows->rows * (s->kind == ATTEND ? s->keys : 1);
    if (s->kind == PRODUCT) multiply(s, member, rows->rows, part, parts);
    else
        for (long unit = part; unit < units; unit += parts) {
            if (s->kind == ATTEND) attend_to(s, rows, first + unit / s->keys, unit % s->keys);
            else row_step(s, rows, member, first + unit);
        }
}

void decode(const Step *steps, long count, const Rows *rows) {
#pragma omp parallel num_threads(rows->threads) if (rows->threads > 1)
    if (rows->members > 1) {
#pragma omp for
        for (long member = 0; member < rows->members; member++)
            each(n, count) step(steps + n, rows, member, 0, 1);
    } else
        each(n, count) {
            step(steps + n, rows, 0, THREAD, THREADS);
#pragma omp barrier
        }
}
END_OF_LANES
