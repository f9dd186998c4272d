/* Arithmetic on eight float32 numbers at a time, in the vector extensions that GCC and Clang share.

   On x86-64 the compiler may use AVX2 and FMA, which `library.py` asks of the CPU before it loads what is built here.
   Functions that others call do not check sizes: their callers in Python do. */
#ifndef NANOGROVE_LANES
#define NANOGROVE_LANES

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#define END_OF_LANES _Pragma("clang attribute pop") /* the last line of each file that includes this one */
#elif defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define END_OF_LANES
#else
#define END_OF_LANES
#endif

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#define THREADS omp_get_num_threads()
#else
#define THREAD 0
#define THREADS 1
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
   -87 it is 0, above 88 no more than there, and a NaN stays one, since 2^n is a factor: bits added to it could make a
   number of it. */
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
    return choose(x < -87.0f, all(0), p * (lanes)(((flags)shifted << 23) + (127 << 23)));
}

/* GELU (Hendrycks 2016) in its tanh form, x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + .044715 x^3), computed as the
   same x s with s = 1 / (1 + e), e = exp(-2u). Its slope is s (1 + x (1 - s) du), du the slope of 2u, and 1 - s = e s. */
static inline lanes gelu_of(lanes x, lanes *slope) {
    lanes square = x * x, rate = square * 0.07135481627f + 1.59576912161f;
    lanes e = exponential(-x * rate), share = 1.0f / (1.0f + e), y = x * share;
    *slope = share + y * (e * share) * (square * 0.14270963254f + rate);
    return y;
}

/* An activation with its slope: none, GELU, or ReLU squared (So 2021). */
enum { LINEAR, GELU, RELU2 };
static inline lanes activated(int kind, lanes x, lanes *slope) {
    if (kind == GELU) return gelu_of(x, slope);
    lanes positive = choose(x > 0.0f, x, all(0));
    *slope = kind == LINEAR ? all(1) : positive + positive;
    return kind == LINEAR ? x : positive * positive;
}

/* `scale` times the vector x [size] of a head, each pair (i, i + size / 2) of it rotated by the angle of position t, or
   by minus it for a `sign` of -1 (Su 2021). `rotation` [2, positions, size] has cosines and signed sines, or is null. */
static inline void turn(const float *rotation, long positions, long size, long t, float sign, float scale, const float *x,
                        float *y) {
    long half = size / 2;
    const float *cosine = rotation + t * size, *sine = cosine + positions * size;
    if (!rotation) eight(i, size) set(y + i, at(x + i) * scale);
    else each(i, half) {
        float first = x[i], second = x[i + half], s = sign * sine[i];
        y[i] = (first * cosine[i] + second * s) * scale;
        y[i + half] = (second * cosine[i] - first * s) * scale;
    }
}

#endif
