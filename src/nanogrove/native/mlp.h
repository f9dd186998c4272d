/* The sizes, weights and gradients of a feed-forward layer: see mlp.c. */
#ifndef NANOGROVE_MLP
#define NANOGROVE_MLP

/* x and y [members, rows, in], up [members, inner, in], down [members, in, inner], bias [members, inner] or null; rows is
   a multiple of 4, in and inner are multiples of 16. */
typedef struct {
    long members, rows, in, inner;
    const float *up, *down, *bias;
    int activation, threads;
} Mlp;

/* What the backward pass needs of the forward pass. */
typedef struct {
    const float *x;
    float *inside, *slope; /* [members, inner / 16, rows, 16] */
} Kept;

/* That of y is given, the others are set; that of bias is null where bias is. */
typedef struct {
    const float *y;
    float *x, *up, *down, *bias;
} Gradients;

#endif
