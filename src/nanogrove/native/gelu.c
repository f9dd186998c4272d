/* GELU with its slope, in one pass over memory. */
#include "lanes.h"

enum { PIECE = 1 << 13 }; /* numbers that one thread takes at a time */

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

END_OF_LANES
