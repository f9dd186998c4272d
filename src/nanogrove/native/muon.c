/* The nearest orthogonal matrix, roughly, as train/optim/muon.py says, which does the same in operators of torch.

   A thread has a matrix of its own, all whose products stay in the core's cache. Those that are known to be symmetric,
   such as X X^T and products of matrices that commute, are computed by half. */
#include "heads.h"
#include "mlp.h"
#include "products.h"
#include "step.h"

#include <math.h>
#include <string.h>

/* Matrices [count, n, k], n and k multiples of 16 and n at most k; `polynomials` [degree, 5] are coefficients of x, x^3,
   x^5, x^7 and x^9. */
typedef struct {
    long count, n, k, polynomials;
    const float *coefficients;
    float margin;
    int threads;
} Matrices;

/* Sizes of all structures, by which library.py knows that it is the library of its own version. */
long layout(void) {
    long sizes[] = {sizeof(Heads), sizeof(Matrices), sizeof(Mlp), sizeof(Kept), sizeof(Gradients), sizeof(Step), sizeof(Rows)};
    long all = 0;
    each(i, 7) all = all * 331 + sizes[i];
    return all;
}

/* Numbers that a thread needs: five matrices [n, n], and two panels. */
long muon_room(const Matrices *s) { return s->threads * (5 * s->n * s->n + (s->n + s->k) * PANEL); }

/* c [n, n] = scale a b^T + share d + diagonal I, which is symmetric, of a and b [n, k]; d may be null. */
static void half_product(long n, long k, float scale, const float *a, const float *b, float share, const float *d,
                         float diagonal, float *c, float *room) {
    float *panel = room, *sums = room + k * PANEL;
    for (long j = 0; j < n; j += PANEL) {
        lay(PANEL, k, b + j * k, panel);
        product(j + PANEL, PANEL, k, a, k, 1, panel, PANEL, sums, PANEL, 0);
        each(i, j + PANEL) eight(m, PANEL) {
            lanes value = at(sums + i * PANEL + m) * scale;
            if (d) value += at(d + i * n + j + m) * share;
            set(sums + i * PANEL + m, value);
        }
        each(m, PANEL) sums[(j + m) * PANEL + m] += diagonal;
        each(i, j + PANEL) memcpy(c + i * n + j, sums + i * PANEL, PANEL * sizeof *c);
        each(m, PANEL) each(i, j) c[(j + m) * n + i] = sums[i * PANEL + m];
    }
}

/* x [n, k] = a x, of a [n, n]. */
static void multiply(long n, long k, const float *a, float *x, float *panel) {
    for (long j = 0; j < k; j += PANEL) {
        each(p, n) memcpy(panel + p * PANEL, x + p * k + j, PANEL * sizeof *x);
        product(n, PANEL, n, a, n, 1, panel, PANEL, x + j, k, 0);
    }
}

static float norm_of(long count, const float *x) {
    lanes total = all(0);
    eight(i, count) total += at(x + i) * at(x + i);
    return sqrtf(sum(total));
}

static void scale(long count, float by, float *x) { eight(i, count) set(x + i, at(x + i) * by); }

/* a I + b A + c A^2 + d A^3 + e A^4 of A = X X^T and its square: what a polynomial multiplies X by. */
static void factor_of(long n, const float *gram, const float *squared, const float *polynomial, float *factor,
                      float *spare, float *room) {
    float a = polynomial[0], b = polynomial[1], c = polynomial[2], d = polynomial[3], e = polynomial[4];
    eight(i, n * n) set(spare + i, at(squared + i) + at(gram + i) * (d / e));
    each(i, n) spare[i * n + i] += c / e;
    half_product(n, n, e, spare, squared, b, gram, a, factor, room);
}

static void orthogonalise_one(const Matrices *s, float *x, float *room) {
    long n = s->n, k = s->k, size = n * n, by_gram = 2 * k > 3 * n;
    float *gram = room, *squared = gram + size, *factor = squared + size, *all = factor + size, *spare = all + size;
    float *panels = spare + size;
    for (long p = 0; p < s->polynomials; p++) {
        if (p && by_gram) { /* that of F X is F X X^T F^T, also where rounding leaves F and X X^T not quite commuting */
            multiply(n, n, factor, gram, panels);
            half_product(n, n, 1, gram, factor, 0, 0, 0, squared, panels);
            float *old = gram;
            gram = squared, squared = old;
        } else half_product(n, k, 1, x, x, 0, 0, 0, gram, panels);
        float norm = 1, top = 1;
        if (!p) scale(size, 1 / (norm = norm_of(size, gram) + 1e-14f), gram);
        half_product(n, n, 1, gram, gram, 0, 0, 0, squared, panels);
        if (!p) {
            top = s->margin * fmaxf(sqrtf(norm_of(size, squared)), 1.0f / 16);
            scale(size, 1 / top, gram), scale(size, 1 / (top * top), squared);
        }
        factor_of(n, gram, squared, s->coefficients + 5 * p, factor, spare, panels);
        if (p && by_gram) multiply(n, n, factor, all, panels);
        else if (by_gram) memcpy(all, factor, size * sizeof *all);
        else multiply(n, k, factor, x, panels);
        if (!p) scale(by_gram ? size : n * k, 1 / sqrtf(norm * top), by_gram ? all : x);
    }
    if (by_gram) multiply(n, k, all, x, panels);
}

void orthogonalise(const Matrices *s, float *x, float *room) {
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (long i = 0; i < s->count; i++)
        orthogonalise_one(s, x + i * s->n * s->k, room + THREAD * (muon_room(s) / s->threads));
}

END_OF_LANES
