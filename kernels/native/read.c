// Reads memory as fast as it comes: the ceiling of every product that is bound by its weights.

#include "vector.h"

enum { PIECE = 1 << 20, MOST_STREAMS = 16 };

typedef struct {
  const char *from;
  long num, next;
  int streams;
  uint32_t seen;
} Read;

INLINE words read_piece(const char *from, int streams) {
  const long part = PIECE / streams;
  words seen[4] = {{0}, {0}, {0}, {0}};
  for (long at = 0; at < part; at += 16 * LANES)
    for (int s = 0; s < streams; s++)
      _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        words w;
        memcpy(&w, from + s * part + at + 4 * LANES * i, sizeof w);
        seen[i] ^= w;
      }
  return seen[0] ^ seen[1] ^ seen[2] ^ seen[3];
}

static void read_work(void *data) {
  Read *job = data;
  words seen = {0};
  for (long p; (p = take(&job->next)) < job->num;) {
    const char *from = job->from + p * PIECE;
    switch (job->streams) {
      case 1: seen ^= read_piece(from, 1); break;
      case 4: seen ^= read_piece(from, 4); break;
      case 8: seen ^= read_piece(from, 8); break;
      default: seen ^= read_piece(from, MOST_STREAMS);
    }
  }
  uint32_t all_seen = 0;
  for (int i = 0; i < LANES; i++) all_seen ^= seen[i];
  __atomic_fetch_xor(&job->seen, all_seen, __ATOMIC_RELAXED);
}

// All bits of whole mebibytes, folded, so that no read may be left out. streams: 1, 4, 8 or 16.
uint32_t read_memory(const void *from, long mebibytes, int streams, int num_threads) {
  Read job = {from, mebibytes, 0, streams, 0};
  run(read_work, &job, num_threads);
  return job.seen;
}
