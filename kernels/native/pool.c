// Threads of our own for the C twins. Whoever waits sleeps after microseconds, so that a busy machine loses nothing to it,
// and nobody waits for a thread that has not begun: what it would have done is done by those that run.

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "vector.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>

enum { MOST = 64, SPIN = 40000 };  // workers; nanoseconds

// state: a number that grows with each job, then places for workers that may still join, then workers inside.
enum { PLACES = 1 << 16, INSIDE = PLACES - 1 };
static struct {
  uint64_t state __attribute__((aligned(64)));
  uint32_t jobs, asleep;    // jobs begun, which workers sleep on; how many do
  uint32_t left, waiting;   // changes as a worker leaves, for the caller to sleep on; whether it does
  int busy, workers;
  void (*work)(void *);
  void *job;
} pool;

INLINE void pause_a_little(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

static long nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void sleep_on(uint32_t *word, uint32_t seen) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0); }
static void wake(uint32_t *word, int num) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, num, NULL, NULL, 0); }

static int join(void) {
  uint64_t state = __atomic_load_n(&pool.state, __ATOMIC_ACQUIRE);
  while ((state & 0xffffffff) >= PLACES)
    if (__atomic_compare_exchange_n(&pool.state, &state, state - PLACES + 1, 1, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return 1;
  return 0;
}

static void leave(void) {
  __atomic_fetch_sub(&pool.state, 1, __ATOMIC_SEQ_CST);
  __atomic_fetch_add(&pool.left, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&pool.waiting, __ATOMIC_SEQ_CST)) wake(&pool.left, 1);
}

static void *worker(void *unused) {
  (void)unused;
  for (uint32_t seen = 0;;) {
    long since = nanoseconds();
    while (__atomic_load_n(&pool.jobs, __ATOMIC_ACQUIRE) == seen) {
      for (int i = 0; i < 32 && __atomic_load_n(&pool.jobs, __ATOMIC_RELAXED) == seen; i++) pause_a_little();
      if (nanoseconds() - since < SPIN) continue;
      __atomic_fetch_add(&pool.asleep, 1, __ATOMIC_SEQ_CST);
      sleep_on(&pool.jobs, seen);
      __atomic_fetch_sub(&pool.asleep, 1, __ATOMIC_SEQ_CST);
      since = nanoseconds();
    }
    seen = __atomic_load_n(&pool.jobs, __ATOMIC_ACQUIRE);
    if (join()) {
      pool.work(pool.job);
      leave();
    }
  }
  return NULL;
}

// A child of fork has the caller's thread alone.
static void forget(void) { memset(&pool, 0, sizeof pool); }

static void grow(int num) {
  static int watched;
  if (!watched) watched = 1, pthread_atfork(NULL, NULL, forget);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the program's own threads
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  for (pthread_t id; pool.workers < num && pthread_create(&id, &detached, worker, NULL) == 0;) pool.workers++;
  pthread_attr_destroy(&detached);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

// Runs work(job) here and on up to num_threads - 1 others. It must take its pieces by `take`: any of them may do all.
void run(void (*work)(void *), void *job, int num_threads) {
  const int others = (num_threads < MOST ? num_threads : MOST) - 1;
  int idle = 0;
  // Somebody else's job has the workers: this one goes alone.
  if (others < 1 || !__atomic_compare_exchange_n(&pool.busy, &idle, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
    work(job);
    return;
  }
  if (pool.workers < others) grow(others);
  pool.work = work, pool.job = job;
  __atomic_store_n(&pool.state, (uint64_t)others * PLACES, __ATOMIC_RELEASE);
  __atomic_fetch_add(&pool.jobs, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&pool.asleep, __ATOMIC_SEQ_CST)) wake(&pool.jobs, others);
  work(job);
  __atomic_fetch_and(&pool.state, (uint64_t)INSIDE, __ATOMIC_SEQ_CST);  // no more may join
  for (long since = 0; __atomic_load_n(&pool.state, __ATOMIC_ACQUIRE);) {
    for (int i = 0; i < 32 && __atomic_load_n(&pool.state, __ATOMIC_RELAXED); i++) pause_a_little();
    if (!since) since = nanoseconds();
    if (nanoseconds() - since < SPIN) continue;
    __atomic_store_n(&pool.waiting, 1, __ATOMIC_SEQ_CST);
    const uint32_t left = __atomic_load_n(&pool.left, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.state, __ATOMIC_SEQ_CST)) sleep_on(&pool.left, left);
    __atomic_store_n(&pool.waiting, 0, __ATOMIC_SEQ_CST);
  }
  __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
}
#else
void run(void (*work)(void *), void *job, int num_threads) {
  (void)num_threads;
  work(job);
}
#endif
