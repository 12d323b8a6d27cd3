/* What layers ask of a pool. */
#ifndef MSQ_THREADS_H
#define MSQ_THREADS_H

#include "msq_kernels.h"

/* Threads of a pool; 1 of none. */
int32_t msq_thread_count(const msq_threads *threads);

/* Do work(context, part, thread) for every part in 0..parts − 1, thread in 0..count − 1, and return when all are done. */
void msq_share(msq_threads *threads, int32_t parts, void (*work)(void *context, int32_t part, int32_t thread),
               void *context);

#endif
