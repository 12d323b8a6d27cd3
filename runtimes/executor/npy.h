/* Arrays in NumPy's format, read element after element from a file or a pipe. */
#ifndef MSQ_NPY_H
#define MSQ_NPY_H

#include <stdio.h>

#include "msq_kernels.h"

enum { NPY_MOST_RANK = 8 };

typedef struct {
    FILE *stream;
    const char *path;
    char type[4]; /* "f4", "u1", "i8": little endian */
    int32_t rank;
    int64_t shape[NPY_MOST_RANK];
} msq_npy;

/* Open a .npy file, "-" being the standard input, and read its header. MSQ_INPUT. */
msq_status msq_npy_open(msq_npy *array, const char *path);

/* Read the next bytes. MSQ_INPUT: there are fewer. */
msq_status msq_npy_read(msq_npy *array, void *to, size_t bytes);
void msq_npy_close(msq_npy *array);

/* Begin a .npy file of float32. */
void msq_npy_write_header(FILE *stream, int32_t rank, const int64_t *shape);

#endif
