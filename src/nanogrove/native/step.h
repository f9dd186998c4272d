/* A decoding step, as `program.py` writes it down: see decoding.c. */
#ifndef NANOGROVE_STEP
#define NANOGROVE_STEP

enum { FLOAT32, BFLOAT16, INT8 };
enum { EMBED, PLACE, NORM, PRODUCT, GATE, ATTEND }; /* kinds of steps */

/* What a step reads and writes: rows of `from` and `to`, `in` and `out` numbers apart. The weights of member m begin
   m * stride numbers after those of the first, and its vectors m * the numbers of one. */
typedef struct {
    int kind, format, activation, add; /* product: of the weights; after it; whether `to` is added to */
    const float *from;
    float *to;
    long in, out;
    const void *weight;
    long stride;
    const float *scale, *bias;
    long inner;              /* product: k; gate: half of a row */
    long first, count, size; /* norm: `count` parts of a row, of `size` numbers, the first from number `first` on */
    int centred;             /* … */
    float eps;               /* … */
    long queries, keys;      /* attention: heads, of `size` numbers */
    long layer, positions;   /* … */
    const float *rotation;   /* … [2, positions, size], or null */
} Step;

/* `rows` of each of `members`; each row has read `lengths` tokens, of `room` that fit, [layers, held, keys, room, D] in
   `k` and `v`, whose first rows they are; `token` follows, and `previous` came before. */
typedef struct {
    long members, rows, held, room;
    const long long *token, *previous, *lengths;
    float *k, *v;
    int threads;
} Rows;

#endif
