/* A feed-forward layer and its gradient: y = down f(up x + bias), with f GELU or squared ReLU.

   Operators of torch take all rows through one product, through f, and through the other product, so that what is
   inside, four times as wide as x, goes through memory five times, and seven times backward. Here up to 96 rows at a
   time go through all three while what is inside of them stays in a core's cache; of it, f and its slope are kept for
   the backward pass. Weights are laid into panels of 16 outputs first, which a product reads in one stream.

   Threads have members of their own while there are as many left as threads; they share each of the others: its blocks
   of rows, and for the gradients of its weights 16 inner numbers of all rows. Each sum is in one order, so that bits
   depend on neither threads nor other members. */
#include "mlp.h"
#include "products.h"

#include <string.h>

enum { BLOCK = 96, DEEP = 192 }; /* most rows at a time; rows of which a sum adds up 16 columns at a time, 12 kB */

/* Numbers from one row of a block to the next, of what is inside: no power of two, whose rows would fall on the same
   lines of the cache. */
static long step_of(const Mlp *m) { return m->inner + PANEL; }

/* Numbers of a thread's own memory: a block of what is inside, a panel of it, and a panel of a weight's gradient. */
static long own_size(const Mlp *m) { return BLOCK * (step_of(m) + PANEL) + m->in * PANEL; }

/* Numbers of the memory that a thread with a member of its own needs: both weights in panels, the gradient of what is
   inside, and its own. */
static long member_size(const Mlp *m) { return m->inner * (2 * m->in + m->rows) + own_size(m); }

/* Numbers of the memory that a call needs. */
long mlp_room(const Mlp *m) { return m->threads * member_size(m); }

/* Rows of a block: a share for each thread, within the cache, and as many in all blocks. */
static long block_of(const Mlp *m, int threads) {
    long share = (m->rows - 1) / threads + 1, most = share < BLOCK ? share : BLOCK, blocks = (m->rows - 1) / most + 1;
    return ((m->rows - 1) / blocks / 4 + 1) * 4;
}

/* Weights [n, k], or [k, n] if `flipped`, as panels [n / 16, k, 16]. */
static void pack(long n, long k, int flipped, const float *weights, float *panels) {
#pragma omp for
    for (long j = 0; j < n; j += PANEL) {
        if (flipped) each(p, k) memcpy(panels + j * k + p * PANEL, weights + p * n + j, PANEL * sizeof *weights);
        else lay(PANEL, k, weights + j * k, panels + j * k);
    }
}

/* All rows of x through both products, `enter` and `leave` being panels of their weights. `inside` is set to f of what
   lies between, and `slope` to its slope there, unless null; backward, `inside` is set to what lies between times
   `slope`. Both are [inner / 16, rows, 16]. */
static inline __attribute__((always_inline)) void pass(const Mlp *m, int backward, const float *x, const float *enter,
                                                       const float *bias, const float *leave, float *inside, float *slope,
                                                       float *y, float *own) {
    long C = m->in, N = m->inner, step = step_of(m), block = block_of(m, THREADS);
    float *part = own + BLOCK * step;
#pragma omp for
    for (long first = 0; first < m->rows; first += block) {
        long rows = m->rows - first < block ? m->rows - first : block;
        for (long j = 0; j < N; j += PANEL) {
            product(rows, PANEL, C, x + first * C, C, 1, enter + j * C, PANEL, part, PANEL, 0);
            each(i, rows) eight(n, PANEL) {
                lanes value = at(part + i * PANEL + n), rise;
                long kept = j * m->rows + (first + i) * PANEL + n;
                if (backward) value *= at(slope + kept);
                else {
                    if (bias) value += at(bias + j + n);
                    value = activated(m->activation, value, &rise);
                    if (slope) set(slope + kept, rise);
                }
                if (slope) set(inside + kept, value);
                set(own + i * step + j + n, value);
            }
        }
        for (long j = 0; j < C; j += PANEL)
            product(rows, PANEL, N, own, step, 1, leave + j * N, PANEL, y + first * C + j, C, 0);
    }
}

static void forward(const Mlp *m, long member, int threads, const float *x, float *y, float *inside, float *slope,
                    float *room) {
    long C = m->in, N = m->inner, weights = member * C * N, outer = member * m->rows * C, inner = member * m->rows * N;
    float *up = room, *down = up + C * N, *own = down + C * N;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        pack(N, C, 0, m->up + weights, up);
        pack(C, N, 0, m->down + weights, down);
        pass(m, 0, x + outer, up, m->bias ? m->bias + member * N : 0, down, inside ? inside + inner : 0,
             slope ? slope + inner : 0, y + outer, own + THREAD * own_size(m));
    }
}

/* Sums over rows of the products of `wide` [rows, in] and a panel of `inside`, [rows, 16]. */
static void sum_products(const Mlp *m, const float *wide, const float *inside, float *sums) {
    for (long p = 0; p < m->rows; p += DEEP) {
        long deep = m->rows - p < DEEP ? m->rows - p : DEEP;
        product(m->in, PANEL, deep, wide + p * m->in, 1, m->in, inside + p * PANEL, PANEL, sums, PANEL, p > 0);
    }
}

static void backward(const Mlp *m, long member, int threads, const Kept *kept, const Gradients *g, float *room) {
    long C = m->in, N = m->inner, weights = member * C * N, outer = member * m->rows * C, inner = member * m->rows * N;
    float *up = room, *down = up + C * N, *dinside = down + C * N, *dup = g->up + weights, *ddown = g->down + weights;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *own = dinside + m->rows * N + THREAD * own_size(m);
        pack(N, C, 1, m->down + weights, down);
        pack(C, N, 1, m->up + weights, up);
        pass(m, 1, g->y + outer, down, 0, up, dinside, kept->slope + inner, g->x + outer, own);
#pragma omp for
        for (long j = 0; j < N; j += PANEL) {
            const float *panel = dinside + j * m->rows;
            sum_products(m, g->y + outer, kept->inside + inner + j * m->rows, own);
            each(i, C) memcpy(ddown + i * N + j, own + i * PANEL, PANEL * sizeof *own);
            sum_products(m, kept->x + outer, panel, own);
            each(i, C) each(n, PANEL) dup[(j + n) * C + i] = own[i * PANEL + n];
            if (m->bias) eight(n, PANEL) {
                lanes total = all(0);
                each(t, m->rows) total += at(panel + t * PANEL + n);
                set(g->bias + member * N + j + n, total);
            }
        }
    }
}

void mlp(const Mlp *m, const float *x, float *y, float *inside, float *slope, float *room) {
    long own = m->members - m->members % m->threads;
#pragma omp parallel for num_threads(m->threads) if (m->threads > 1 && own)
    for (long member = 0; member < own; member++)
        forward(m, member, 1, x, y, inside, slope, room + THREAD * member_size(m));
    for (long member = own; member < m->members; member++) forward(m, member, m->threads, x, y, inside, slope, room);
}

/* Gradients from what the forward pass was given and kept; `room` is that of a call. */
void mlp_backward(const Mlp *m, const Kept *kept, const Gradients *g, float *room) {
    long own = m->members - m->members % m->threads;
#pragma omp parallel for num_threads(m->threads) if (m->threads > 1 && own)
    for (long member = 0; member < own; member++) backward(m, member, 1, kept, g, room + THREAD * member_size(m));
    for (long member = own; member < m->members; member++) backward(m, member, m->threads, kept, g, room);
}
END_OF_LANES
