/* Where queries, keys, values and scores of attention.c lie. */
#ifndef NANOGROVE_HEADS
#define NANOGROVE_HEADS

#include "lanes.h"

enum { QUERIES = 16 }; /* at a time */

/* `queries` heads, then `keys` heads of keys and as many of values, [rows, tokens, queries + 2 keys, size] in all; size
   is a multiple of 8, queries one of keys. `rotation` [2, tokens, size] has cosines and signed sines, or is null.
   `kept` [rows, queries, tokens, tokens rounded up to 16] multiplies the softmax, as dropout does, or is null. */
typedef struct {
    long rows, tokens, queries, keys, size;
    const float *rotation, *kept;
    int threads;
} Heads;

/* Numbers in a row of scores: the tokens, up to a whole block of queries, and some more, since rows a power of two
   apart would fall on the same lines of the cache. */
static inline long width_of(const Heads *h) { return (h->tokens + QUERIES - 1) / QUERIES * QUERIES + WIDE; }

/* The factors of the softmax of a row of `logs`; null where there are none. */
static inline const float *kept_of(const Heads *h, long row) {
    return h->kept ? h->kept + row * (width_of(h) - WIDE) : 0;
}

/* The rows and heads that a thread is given: those of one row that share keys and values, in `qkv` and in y. */
typedef struct {
    long step, y_step, q, k, v, y, logs, heads; /* distances of tokens; where each begins; query heads */
} Place;

static inline Place place_of(const Heads *h, long unit) {
    long row = unit / h->keys, key = unit % h->keys, D = h->size, share = h->queries / h->keys;
    long step = (h->queries + 2 * h->keys) * D, start = row * h->tokens * step, head = key * share;
    return (Place){step, h->queries * D, start + head * D, start + (h->queries + key) * D,
                   start + (h->queries + h->keys + key) * D, (row * h->tokens * h->queries + head) * D,
                   (row * h->queries + head) * h->tokens, share};
}

#endif
