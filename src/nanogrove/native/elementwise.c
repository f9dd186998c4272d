/* GELU, LayerNorm and RMSNorm, each with its gradient, in one pass over memory.

   Every number, or row, is computed in one order, whichever thread has it, so that bits depend on nothing else. */
#include "lanes.h"

#include <math.h>
#include <string.h>

enum { PIECE = 1 << 13, CHUNK = 64 }; /* numbers of a piece of work; rows whose gradients are added up together */

/* GELU (Hendrycks 2016) in its tanh form, x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + .044715 x^3), computed as the
   same x s with s = 1 / (1 + e), e = exp(-2u). Its slope is s (1 + x (1 - s) du), du the slope of 2u, and 1 - s = e s.
   `count` is a multiple of 8; `slope` may be null. */
void gelu(const float *x, float *y, float *slope, long count, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long first = 0; first < count; first += PIECE)
        for (long i = first; i < first + PIECE && i < count; i += WIDE) {
            lanes v = at(x + i), square = v * v, rate = square * 0.07135481627f + 1.59576912161f;
            lanes e = exponential(-v * rate), share = 1.0f / (1.0f + e), result = v * share;
            set(y + i, result);
            if (slope) set(slope + i, share + result * (e * share) * (square * 0.14270963254f + rate));
        }
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
        const float *from = x + row * n->size, *w = weight, *b = bias;
        if (w) w += row / n->rows * n->size;
        if (b) b += row / n->rows * n->size;
        lanes total = all(0), squares = all(0);
        if (n->centred) eight(i, n->size) total += at(from + i);
        float mean = sum(total) / n->size;
        eight(i, n->size) squares += (at(from + i) - mean) * (at(from + i) - mean);
        float scale = 1 / sqrtf(sum(squares) / n->size + n->eps);
        eight(i, n->size) {
            lanes value = (at(from + i) - mean) * scale;
            if (w) value *= at(w + i);
            if (b) value += at(b + i);
            set(y + row * n->size + i, value);
        }
        if (kept) kept[2 * row] = mean, kept[2 * row + 1] = scale;
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
