/* Small matrix products whose operands stay in a core's cache. */
#ifndef NANOGROVE_PRODUCTS
#define NANOGROVE_PRODUCTS

#include "lanes.h"

enum { ROWS = 6, PANEL = 2 * WIDE };

/* c [rows, 8w] = a b, or c + a b if `add`, of a [rows, k] in any strides and b [k, 8w]. */
static inline __attribute__((always_inline)) void tile(int rows, int w, long k, const float *a, long row, long column,
                                                       const float *b, long b_row, float *c, long c_row, int add) {
    lanes sums[ROWS][2] = {{{0}}};
    each(p, k) {
        lanes right[2];
        each(j, w) right[j] = at(b + p * b_row + j * WIDE);
        each(i, rows) each(j, w) sums[i][j] += a[i * row + p * column] * right[j];
    }
    each(i, rows) each(j, w) {
        float *to = c + i * c_row + j * WIDE;
        set(to, add ? at(to) + sums[i][j] : sums[i][j]);
    }
}

/* `columns` rows of b [n, k], at most 16, as a panel [k, 16], filled up with zeros. */
static inline void lay(long columns, long k, const float *b, float *panel) {
    each(p, k) each(j, PANEL) panel[p * PANEL + j] = j < columns ? b[j * k + p] : 0;
}

/* The same for c [m, n], with m even and 4 or more, and n a multiple of 8. */
static inline void product(long m, long n, long k, const float *a, long row, long column, const float *b, long b_row,
                           float *c, long c_row, int add) {
    for (long j = 0; j < n; j += 2 * WIDE)
        for (long i = 0, rows; i < m; i += rows) {
            const float *from = a + i * row, *right = b + j;
            float *to = c + i * c_row + j;
            rows = m - i < ROWS || m - i == 8 ? 4 : ROWS;
            if (rows == 4 && j + WIDE < n) tile(4, 2, k, from, row, column, right, b_row, to, c_row, add);
            else if (j + WIDE < n) tile(ROWS, 2, k, from, row, column, right, b_row, to, c_row, add);
            else if (rows == 4) tile(4, 1, k, from, row, column, right, b_row, to, c_row, add);
            else tile(ROWS, 1, k, from, row, column, right, b_row, to, c_row, add);
        }
}

#endif
