/* Causal self-attention and its gradient, for contexts whose keys and values stay in a core's cache.

   y_t = sum over s <= t of p_ts v_s, with p_t the softmax of q_t . k_s / sqrt(D). The scores of 16 queries at a time
   are computed, used and forgotten; what is kept is the logarithm of each softmax's divisor, from which the backward
   pass computes them again (Rabe & Staats 2021; Dao 2022). No score after its query's block of 16 is computed, and
   nothing is copied outside: heads are read from, and their gradients written to, the product that made them.

   A thread has all query heads of one row that share a key, and sums are in one order, so that bits depend on neither
   threads nor other rows. */
#include "heads.h"
#include "products.h"

#include <math.h>
#include <string.h>

/* Vectors of one head, `step` apart, turned and scaled to rows of `to` [tokens, D]. */
static void load(const Heads *h, const float *rotation, float scale, const float *from, long step, float *to) {
    each(t, h->tokens) turn(rotation, h->tokens, h->size, t, 1, scale, from + t * step, to + t * h->size);
}

/* The opposite, for gradients. */
static void store(const Heads *h, const float *rotation, float scale, const float *from, float *to, long step) {
    each(t, h->tokens) turn(rotation, h->tokens, h->size, t, -1, scale, from + t * h->size, to + t * step);
}

/* Rows [tokens, D] as columns [D, width]. */
static void flip(const Heads *h, const float *from, float *to, long width) {
    each(i, h->size) each(t, h->tokens) to[i * width + t] = from[t * h->size + i];
}

/* The first lanes of x, as many as are wanted; minus infinity in the others. */
static inline lanes first_of(long wanted, lanes x) {
    int most = wanted < 0 ? 0 : wanted < WIDE ? wanted : WIDE;
    return choose((flags){0, 1, 2, 3, 4, 5, 6, 7} < most, x, all(-INFINITY));
}

/* Softmax in place of the first `seen` of n scores, the others 0; the logarithm of its divisor. */
static float softmax(float *scores, long seen, long n) {
    lanes most = all(-INFINITY), total = all(0);
    eight(j, n) {
        lanes x = first_of(seen - j, at(scores + j));
        set(scores + j, x), most = choose(most > x, most, x);
    }
    float high = largest(most);
    eight(j, n) set(scores + j, exponential(at(scores + j) - high)), total += at(scores + j);
    float divisor = sum(total);
    eight(j, n) set(scores + j, at(scores + j) / divisor);
    return high + logf(divisor);
}

/* Float32 numbers of the memory that each thread needs, zeros at first. */
long attention_room(const Heads *h) { return width_of(h) * (8 * h->size + 2 * QUERIES); }

/* y [rows, tokens, queries, D] and `logs` [rows, queries, tokens] from `qkv`; `room` is that of each thread. */
void attend(const Heads *h, const float *qkv, float *y, float *logs, float *room) {
#pragma omp parallel for num_threads(h->threads) if (h->threads > 1)
    for (long unit = 0; unit < h->rows * h->keys; unit++) {
        Place p = place_of(h, unit);
        long T = h->tokens, D = h->size, width = width_of(h), size = width * D;
        float *q = room + THREAD * attention_room(h), *v = q + size, *k_flipped = v + size, *out = k_flipped + size;
        float *scores = out + size;
        load(h, h->rotation, 1, qkv + p.k, p.step, v);
        flip(h, v, k_flipped, width);
        load(h, 0, 1, qkv + p.v, p.step, v);
        each(head, p.heads) {
            load(h, h->rotation, 1 / sqrtf(D), qkv + p.q + head * D, p.step, q);
            for (long first = 0; first < T; first += QUERIES) {
                long n = first + QUERIES, here = T < n ? T - first : QUERIES;
                product(QUERIES, n, D, q + first * D, D, 1, k_flipped, width, scores, width, 0);
                each(i, here) {
                    long row = p.logs + head * T + first + i;
                    const float *kept = kept_of(h, row);
                    logs[row] = softmax(scores + i * width, first + i + 1, n);
                    if (kept) eight(j, n) set(scores + i * width + j, at(scores + i * width + j) * at(kept + j));
                }
                product(QUERIES, D, n, scores, width, 1, v, D, out, D, 0);
                each(i, here) memcpy(y + p.y + (first + i) * p.y_step + head * D, out + i * D, D * sizeof *y);
            }
        }
    }
}

/* What the backward pass of one head keeps in a thread's room; g is dy. */
typedef struct {
    float *q, *g, *k, *k_flipped, *v_flipped, *dq, *dk, *dv, *scores, *slopes;
} Buffers;

/* Of 16 queries: dq is set, dk and dv are added to. The head's first query is number `row` in `logs`. */
static void block_backward(const Heads *h, const Buffers *b, const float *logs, long row, const float *y, long y_step,
                           long first) {
    long D = h->size, width = width_of(h), n = first + QUERIES;
    product(QUERIES, n, D, b->q + first * D, D, 1, b->k_flipped, width, b->scores, width, 0);
    product(QUERIES, n, D, b->g + first * D, D, 1, b->v_flipped, width, b->slopes, width, 0);
    each(i, QUERIES) {
        float *p = b->scores + i * width, *s = b->slopes + i * width;
        long t = first + i, seen = t < h->tokens ? t + 1 : 0;
        const float *kept = seen ? kept_of(h, row + t) : 0;
        lanes along = all(0); /* y . dy */
        if (seen) eight(j, D) along += at(y + t * y_step + j) * at(b->g + t * D + j);
        eight(j, n) {
            lanes share = exponential(first_of(seen - j, at(p + j)) - (seen ? logs[row + t] : 0)), factor = kept ? at(kept + j) : all(1);
            set(p + j, share * factor);
            set(s + j, share * (at(s + j) * factor - sum(along)));
        }
    }
    product(QUERIES, D, n, b->slopes, width, 1, b->k, D, b->dq + first * D, D, 0);
    product(n, D, QUERIES, b->slopes, 1, width, b->q + first * D, D, b->dk, D, 1);
    product(n, D, QUERIES, b->scores, 1, width, b->g + first * D, D, b->dv, D, 1);
}

/* The gradient of `qkv` from that of y. */
void attend_backward(const Heads *h, const float *qkv, const float *y, const float *logs, const float *dy, float *dqkv,
                     float *room) {
#pragma omp parallel for num_threads(h->threads) if (h->threads > 1)
    for (long unit = 0; unit < h->rows * h->keys; unit++) {
        Place p = place_of(h, unit);
        long D = h->size, width = width_of(h), size = width * D;
        float *m = room + THREAD * attention_room(h), scale = 1 / sqrtf(D);
        Buffers b = {m,            m + size,     m + 2 * size, m + 3 * size, m + 4 * size,
                     m + 5 * size, m + 6 * size, m + 7 * size, m + 8 * size, m + 8 * size + QUERIES * width};
        load(h, 0, 1, qkv + p.v, p.step, b.k);
        flip(h, b.k, b.v_flipped, width);
        load(h, h->rotation, 1, qkv + p.k, p.step, b.k);
        flip(h, b.k, b.k_flipped, width);
        memset(b.dk, 0, 2 * size * sizeof *m);
        each(head, p.heads) {
            load(h, h->rotation, scale, qkv + p.q + head * D, p.step, b.q);
            load(h, 0, 1, dy + p.y + head * D, p.y_step, b.g);
            for (long first = 0; first < h->tokens; first += QUERIES)
                block_backward(h, &b, logs, p.logs + head * h->tokens, y + p.y + head * D, p.y_step, first);
            store(h, h->rotation, scale, b.dq, dqkv + p.q + head * D, p.step);
        }
        store(h, h->rotation, 1, b.dk, dqkv + p.k, p.step);
        store(h, 0, 1, b.dv, dqkv + p.v, p.step);
    }
}
END_OF_LANES
