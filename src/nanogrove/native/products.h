/* Small matrix products whose operands stay in a core's cache. */
#ifndef NANOGROVE_PRODUCTS
#define NANOGROVE_PRODUCTS

#include "lanes.h"

enum { ROWS = 4 };

/* c [4, 8w] = a b, or c + a b if `add`, of a [4, k] in any strides and b [k, 8w]. */
static inline __attribute__((always_inline)) void tile(int w, long k, const float *a, long row, long column,
                                                       const float *b, long b_row, float *c, long c_row, int add) {
    lanes sums[ROWS][2] = {{{0}}};
    each(p, k) {
        lanes right[2];
        each(j, w) right[j] = at(b + p * b_row + j * WIDE);
        each(i, ROWS) each(j, w) sums[i][j] += a[i * row + p * column] * right[j];
    }
    each(i, ROWS) each(j, w) {
        float *to = c + i * c_row + j * WIDE;
        set(to, add ? at(to) + sums[i][j] : sums[i][j]);
    }
}

/* The same for c [m, n], with m a multiple of 4 and n of 8. */
static inline void product(long m, long n, long k, const float *a, long row, long column, const float *b, long b_row,
                           float *c, long c_row, int add) {
    for (long j = 0; j < n; j += 2 * WIDE)
        for (long i = 0; i < m; i += ROWS) {
            if (j + WIDE < n) tile(2, k, a + i * row, row, column, b + j, b_row, c + i * c_row + j, c_row, add);
            else tile(1, k, a + i * row, row, column, b + j, b_row, c + i * c_row + j, c_row, add);
        }
}

#endif
