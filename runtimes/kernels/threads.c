/* A small pool: a call's parts are taken by whoever is free, the calling thread included. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "msq_kernels.h"
#include "threads.h"
#include "tier.h"

enum { MOST_THREADS = 256, SPINS = 2000 };

struct msq_threads {
    int32_t count;
    pthread_t *others;
    pthread_mutex_t mutex;
    pthread_cond_t called, done;
    atomic_uint call; /* counts calls: a thread works when it has changed */
    atomic_int next, busy;
    int32_t parts;
    void (*work)(void *context, int32_t part, int32_t thread);
    void *context;
    bool stop;
};

typedef struct {
    msq_threads *threads;
    int32_t index;
} start;

static void take_parts(msq_threads *threads, int32_t thread) {
    for (;;) {
        const int32_t part = atomic_fetch_add(&threads->next, 1);
        if (part >= threads->parts) return;
        threads->work(threads->context, part, thread);
    }
}

static void *run(void *argument) {
    msq_threads *threads = ((start *)argument)->threads;
    const int32_t index = ((start *)argument)->index;
    free(argument);
    unsigned seen = 0;
    for (;;) {
        /* Layers follow one another closely: waiting a little costs less than being woken. */
        for (int spin = 0; spin < SPINS && atomic_load(&threads->call) == seen; spin++) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        }
        pthread_mutex_lock(&threads->mutex);
        while (atomic_load(&threads->call) == seen && !threads->stop)
            pthread_cond_wait(&threads->called, &threads->mutex);
        const bool stop = threads->stop;
        seen = atomic_load(&threads->call);
        pthread_mutex_unlock(&threads->mutex);
        if (stop) return NULL;
        take_parts(threads, index);
        if (atomic_fetch_sub(&threads->busy, 1) == 1) {
            pthread_mutex_lock(&threads->mutex);
            pthread_cond_signal(&threads->done);
            pthread_mutex_unlock(&threads->mutex);
        }
    }
}

int32_t msq_thread_count(const msq_threads *threads) { return threads ? threads->count : 1; }

void msq_share(msq_threads *threads, int32_t parts, void (*work)(void *context, int32_t part, int32_t thread),
               void *context) {
    if (threads == NULL || threads->count == 1 || parts <= 1) {
        for (int32_t part = 0; part < parts; part++) work(context, part, 0);
        return;
    }
    pthread_mutex_lock(&threads->mutex);
    threads->parts = parts;
    threads->work = work;
    threads->context = context;
    atomic_store(&threads->next, 0);
    atomic_store(&threads->busy, threads->count - 1);
    atomic_fetch_add(&threads->call, 1);
    pthread_cond_broadcast(&threads->called);
    pthread_mutex_unlock(&threads->mutex);
    take_parts(threads, 0);
    for (int spin = 0; spin < SPINS && atomic_load(&threads->busy); spin++) continue;
    pthread_mutex_lock(&threads->mutex);
    while (atomic_load(&threads->busy)) pthread_cond_wait(&threads->done, &threads->mutex);
    pthread_mutex_unlock(&threads->mutex);
}

static void stop_and_free(msq_threads *threads, int32_t started) {
    pthread_mutex_lock(&threads->mutex);
    threads->stop = true;
    pthread_cond_broadcast(&threads->called);
    pthread_mutex_unlock(&threads->mutex);
    for (int32_t i = 0; i < started; i++) pthread_join(threads->others[i], NULL);
    pthread_mutex_destroy(&threads->mutex);
    pthread_cond_destroy(&threads->called);
    pthread_cond_destroy(&threads->done);
    free(threads->others);
    free(threads);
}

msq_status msq_threads_create(int32_t count, msq_threads **out) {
    *out = NULL;
    if (count < 1 || count > MOST_THREADS)
        return msq_fail(MSQ_INVALID, "%d threads; 1 to %d can be had", count, MOST_THREADS);
    msq_threads *threads = calloc(1, sizeof *threads);
    if (threads) threads->others = calloc((size_t)count, sizeof *threads->others);
    if (threads == NULL || threads->others == NULL) {
        free(threads);
        return msq_fail(MSQ_MEMORY, "no memory for %d threads", count);
    }
    threads->count = count;
    pthread_mutex_init(&threads->mutex, NULL);
    pthread_cond_init(&threads->called, NULL);
    pthread_cond_init(&threads->done, NULL);
    for (int32_t i = 0; i < count - 1; i++) {
        start *argument = malloc(sizeof *argument);
        if (argument) *argument = (start){threads, i + 1};
        if (argument == NULL || pthread_create(&threads->others[i], NULL, run, argument)) {
            free(argument);
            stop_and_free(threads, i);
            return msq_fail(MSQ_MEMORY, "the system gives only %d of %d threads", i + 1, count);
        }
    }
    *out = threads;
    return MSQ_OK;
}

void msq_threads_destroy(msq_threads *threads) {
    if (threads) stop_and_free(threads, threads->count - 1);
}
