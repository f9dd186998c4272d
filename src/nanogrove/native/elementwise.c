/* GELU, LayerNorm and RMSNorm, each with its gradient, in one pass over memory.

   Every number, or row, is computed in one order, whichever thread has it, so that bits depend on nothing else. */
#include "lanes.h"

#include <string.h>

enum { PIECE = 1 << 13, CHUNK = 64 }; /* numbers of a piece of work; rows whose gradients are added up together */

static void gelu_piece(const float *x, float *y, float *slope, long first, long end) {
    for (long i = first; i < end; i += WIDE) {
        lanes rise;
        set(y + i, gelu_of(at(x + i), &rise));
        if (slope) set(slope + i, rise);
    }
}

/* y = GELU of x and, unless null, its `slope` there; `count` is a multiple of 8. */
void gelu(const float *x, float *y, float *slope, long count, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long first = 0; first < count; first += PIECE)
        gelu_piece(x, y, slope, first, first + PIECE < count ? first + PIECE : count);
}

/* Rows of `size` numbers, a multiple of 8: those of member m are number m * rows to (m + 1) * rows. */
typedef struct {
    long members, rows, size;
    float eps;
    int centred, threads;
} Norm;

/* y = (x - mean) / root * weight + bias, with root^2 = mean square of x - mean + eps, where mean is 0 unless `centred`
   (LayerNorm, Ba 2016; RMSNorm, Zhang & Sennrich 2019). `weight` and `bias` [members, size] may be null; `kept`
   [members * rows, 2] gets mean and 1 / root. */
void norm(const Norm *n, const float *x, const float *weight, const float *bias, float *y, float *kept) {
#pragma omp parallel for num_threads(n->threads) if (n->threads > 1)
    for (long row = 0; row < n->members * n->rows; row++) {
        long start = row * n->size, vector = row / n->rows * n->size;
        norm_of(x + start, weight ? weight + vector : 0, bias ? bias + vector : 0, n->size, n->eps, n->centred,
                y + start, kept ? kept + 2 * row : 0);
    }
}

static void norm_row(const Norm *n, const float *x, const float *w, const float *kept, const float *dy, float *dx,
                     float *dw, float *db) {
    float mean = kept[0], scale = kept[1];
    lanes sums = all(0), products = all(0);
    eight(i, n->size) {
        lanes unit = (at(x + i) - mean) * scale, g = at(dy + i);
        set(db + i, at(db + i) + g);
        set(dw + i, at(dw + i) + g * unit);
        if (w) g *= at(w + i);
        sums += g, products += g * unit;
    }
    float both = n->centred ? sum(sums) / n->size : 0, along = sum(products) / n->size;
    eight(i, n->size) {
        lanes unit = (at(x + i) - mean) * scale, g = w ? at(dy + i) * at(w + i) : at(dy + i);
        set(dx + i, (g - both - unit * along) * scale);
    }
}

/* The gradients of `norm`: of x, and of weight and bias [members, 2, size], the first of `sums`
   [members, 1 + chunks, 2, size] for each member; chunks of 64 rows are added up apart, then in order. */
void norm_backward(const Norm *n, const float *x, const float *weight, const float *kept, const float *dy, float *dx,
                   float *sums) {
    long chunks = (n->rows + CHUNK - 1) / CHUNK, pair = 2 * n->size, member_sums = (1 + chunks) * pair;
#pragma omp parallel for num_threads(n->threads) if (n->threads > 1)
    for (long part = 0; part < n->members * chunks; part++) {
        long member = part / chunks, first = part % chunks * CHUNK;
        float *dw = sums + member * member_sums + (1 + part % chunks) * pair;
        memset(dw, 0, 4 * pair);
        for (long r = first; r < first + CHUNK && r < n->rows; r++) {
            long row = member * n->rows + r;
            norm_row(n, x + row * n->size, weight ? weight + member * n->size : 0, kept + 2 * row, dy + row * n->size,
                     dx + row * n->size, dw, dw + n->size);
        }
    }
    each(member, n->members) {
        float *all_rows = sums + member * member_sums;
        memset(all_rows, 0, 4 * pair);
        for (long c = 1; c <= chunks; c++)
            eight(i, pair) set(all_rows + i, at(all_rows + i) + at(all_rows + c * pair + i));
    }
}
END_OF_LANES
