/* Products that are known to be symmetric, such as X X^T and those of matrices that commute: one half is computed. */
#include "heads.h"
#include "products.h"
#include "step.h"

#include <string.h>

enum { PANEL = 2 * WIDE };

/* `count` products c [n, n] = scale a b^T + share d + diagonal I, of a and b [n, k] and d [n, n], which may be null; n is
   even and 4 or more, `scale` is not 0. A unit of work is 16 columns of one of them down to the diagonal; `room` holds (k + n) * 16
   numbers for each thread. */
typedef struct {
    long count, n, k;
    float scale, share, diagonal;
    int threads;
} Symmetric;

/* Sizes of all structures, by which library.py knows that it is the library of its own version. */
long layout(void) { return ((sizeof(Heads) * 1000 + sizeof(Symmetric)) * 1000 + sizeof(Step)) * 1000 + sizeof(Rows); }

static inline __attribute__((always_inline)) void finish(const Symmetric *s, long first, long columns, float *sums,
                                                         const float *d, float *c) {
    long n = s->n;
    each(j, columns) sums[(first + j) * PANEL + j] += s->diagonal / s->scale;
    each(i, first + columns) each(j, columns) {
        float value = s->scale * sums[i * PANEL + j];
        if (d) value += s->share * d[i * n + first + j];
        c[i * n + first + j] = sums[i * PANEL + j] = value;
    }
    each(j, columns) each(i, first + j) c[(first + j) * n + i] = sums[i * PANEL + j]; /* the other half */
}

void symmetric(const Symmetric *s, const float *a, const float *b, const float *d, float *c, float *room) {
    long n = s->n, k = s->k, panels = (n + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static, 1) num_threads(s->threads) if (s->threads > 1)
    for (long unit = 0; unit < s->count * panels; unit++) {
        long matrix = unit / panels, first = unit % panels * PANEL, columns = n - first < PANEL ? n - first : PANEL;
        const float *added = d ? d + matrix * n * n : 0;
        float *panel = room + THREAD * (k + n) * PANEL, *sums = panel + k * PANEL, *to = c + matrix * n * n;
        memset(panel, 0, k * PANEL * sizeof *panel);
        each(j, columns) each(p, k) panel[p * PANEL + j] = b[(matrix * n + first + j) * k + p];
        product(first + columns, PANEL, k, a + matrix * n * k, k, 1, panel, PANEL, sums, PANEL, 0);
        if (columns == PANEL) finish(s, first, PANEL, sums, added, to);
        else finish(s, first, columns, sums, added, to);
    }
}

END_OF_LANES
