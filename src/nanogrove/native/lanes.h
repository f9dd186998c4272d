/* Arithmetic on eight float32 numbers at a time, in the vector extensions that GCC and Clang share.

   On x86-64 the compiler may use AVX2 and FMA, which `library.py` asks of the CPU before it loads what is built here.
   Functions that others call do not check sizes: their callers in Python do. */
#ifndef NANOGROVE_LANES
#define NANOGROVE_LANES

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__x86_64__)
#pragma GCC target("avx2,fma")
#endif

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

enum { WIDE = 8 };
typedef float lanes __attribute__((vector_size(4 * WIDE)));
typedef int flags __attribute__((vector_size(4 * WIDE)));
typedef float lanes_in_memory __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
#define each(i, n) for (long i = 0; i < (n); i++)
#define eight(i, n) for (long i = 0; i < (n); i += WIDE)

static inline lanes all(float x) { return (lanes){x, x, x, x, x, x, x, x}; }

static inline lanes at(const float *x) { return *(const lanes_in_memory *)x; }

static inline void set(float *x, lanes value) { *(lanes_in_memory *)x = value; }

static inline lanes choose(flags which, lanes yes, lanes no) {
    return (lanes)((which & (flags)yes) | (~which & (flags)no));
}

/* In one order, whatever the compiler. */
static inline float sum(lanes x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

static inline float largest(lanes x) {
    float most = x[0];
    each(i, WIDE) most = most > x[i] ? most : x[i];
    return most;
}

/* e to the x: 2 to the nearest whole number n of x / ln 2, times a Taylor polynomial of the rest, to 1e-7 of itself.
   ln 2 is taken away in two parts (Cody & Waite 1980); adding 1.5 * 2^23 rounds, and leaves n in the lowest bits. Below
   -87 it is 0, above 88 no more than there. */
static inline lanes exponential(lanes x) {
    lanes z = choose(x > 88.0f, all(88), choose(x < -87.0f, all(-87), x));
    lanes shifted = z * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    lanes r = z - n * 0.693359375f + n * 2.12194440e-4f;
    lanes p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    return choose(x < -87.0f, all(0), (lanes)((flags)p + ((flags)shifted << 23)));
}

#endif
