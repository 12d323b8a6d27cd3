/* What the fuzz targets share. A target is one file with one LLVMFuzzerTestOneInput: libFuzzer calls it with inputs that
 * it invents, replay.c with those of files. What must hold of every input is checked by `must`, which ends the process. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "msq_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

/* What came of the last input, for replay.c. */
extern msq_status fuzz_status;

/* Every failure is of a known kind, and says why in one line. */
static inline msq_status fuzz_result(msq_status status) {
    fuzz_status = status;
    must((unsigned)status <= MSQ_INPUT);
    if (status) must(*msq_error());
    for (const char *at = msq_error(); status && *at; at++) must((unsigned char)*at >= 0x20);
    return status;
}

/* Memory of exactly this size at a multiple of 64 bytes, so that AddressSanitizer sees what reads beyond it. */
static inline void *fuzz_room(size_t bytes) {
    void *room = NULL;
    must(posix_memalign(&room, 64, bytes ? bytes : 1) == 0);
    return room;
}

/* Fill memory with an input, again and again. */
static inline void fuzz_fill(void *to, size_t bytes, const uint8_t *data, size_t size) {
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)to)[i] = size ? data[i % size] : 0;
}

#endif
