/* A small pool: a call's parts are taken by whoever is free, the calling thread included. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "msq_kernels.h"
#include "threads.h"
#include "tier.h"

enum { MOST_THREADS = 256, SPINS = 2000 };

typedef struct {
    msq_threads threads; /* first: a pool is one */
    pthread_t *others;
    pthread_mutex_t mutex;
    pthread_cond_t called, done;
    atomic_uint call; /* counts calls: a thread works when it has changed */
    atomic_int next, busy;
    int32_t parts;
    void (*work)(void *context, int32_t part, int32_t thread);
    void *context;
    bool stop;
} pool;

typedef struct {
    pool *pool;
    int32_t index;
} start;

static void take_parts(pool *pool, int32_t thread) {
    for (;;) {
        const int32_t part = atomic_fetch_add(&pool->next, 1);
        if (part >= pool->parts) return;
        pool->work(pool->context, part, thread);
    }
}

static void *run(void *argument) {
    pool *pool = ((start *)argument)->pool;
    const int32_t index = ((start *)argument)->index;
    free(argument);
    unsigned seen = 0;
    for (;;) {
        /* Layers follow one another closely: waiting a little costs less than being woken. */
        for (int spin = 0; spin < SPINS && atomic_load(&pool->call) == seen; spin++) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        }
        pthread_mutex_lock(&pool->mutex);
        while (atomic_load(&pool->call) == seen && !pool->stop)
            pthread_cond_wait(&pool->called, &pool->mutex);
        const bool stop = pool->stop;
        seen = atomic_load(&pool->call);
        pthread_mutex_unlock(&pool->mutex);
        if (stop) return NULL;
        take_parts(pool, index);
        if (atomic_fetch_sub(&pool->busy, 1) == 1) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

int32_t msq_thread_count(const msq_threads *threads) { return threads ? threads->count : 1; }

void msq_share(msq_threads *threads, int32_t parts, void (*work)(void *context, int32_t part, int32_t thread),
               void *context) {
    if (threads && threads->count > 1 && parts > 1) {
        threads->share(threads, parts, work, context);
        return;
    }
    for (int32_t part = 0; part < parts; part++) work(context, part, 0);
}

static void share(msq_threads *threads, int32_t parts, void (*work)(void *context, int32_t part, int32_t thread),
                  void *context) {
    pool *pool = (void *)threads;
    pthread_mutex_lock(&pool->mutex);
    pool->parts = parts;
    pool->work = work;
    pool->context = context;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->busy, threads->count - 1);
    atomic_fetch_add(&pool->call, 1);
    pthread_cond_broadcast(&pool->called);
    pthread_mutex_unlock(&pool->mutex);
    take_parts(pool, 0);
    for (int spin = 0; spin < SPINS && atomic_load(&pool->busy); spin++) continue;
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->busy)) pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static void stop_and_free(pool *pool, int32_t started) {
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->called);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 0; i < started; i++) pthread_join(pool->others[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->called);
    pthread_cond_destroy(&pool->done);
    free(pool->others);
    free(pool);
}

msq_status msq_threads_create(int32_t count, msq_threads **out) {
    *out = NULL;
    if (count < 1 || count > MOST_THREADS)
        return msq_fail(MSQ_INVALID, "%d threads; 1 to %d can be had", count, MOST_THREADS);
    pool *made = calloc(1, sizeof *made);
    if (made) made->others = calloc((size_t)count, sizeof *made->others);
    if (made == NULL || made->others == NULL) {
        free(made);
        return msq_fail(MSQ_MEMORY, "no memory for %d threads", count);
    }
    made->threads = (msq_threads){count, share};
    pthread_mutex_init(&made->mutex, NULL);
    pthread_cond_init(&made->called, NULL);
    pthread_cond_init(&made->done, NULL);
    for (int32_t i = 0; i < count - 1; i++) {
        start *argument = malloc(sizeof *argument);
        if (argument) *argument = (start){made, i + 1};
        if (argument == NULL || pthread_create(&made->others[i], NULL, run, argument)) {
            free(argument);
            stop_and_free(made, i);
            return msq_fail(MSQ_MEMORY, "the system gives only %d of %d threads", i + 1, count);
        }
    }
    *out = &made->threads;
    return MSQ_OK;
}

void msq_threads_destroy(msq_threads *threads) {
    if (threads) stop_and_free((void *)threads, threads->count - 1);
}
