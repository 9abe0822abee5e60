// Measures collectives of an MPI library. It makes the same calls and prints the same lines as
// fastgpu_bench_core, so that bench/peers.py can compare them. Any MPI-3 library can build it.
//
//   mpicc -O2 bench/mpi_collectives.c -o mpi_collectives
//   mpiexec -n 2 ./mpi_collectives [--touch] [--seconds 0.25] COLLECTIVE:DTYPE:BYTES ...
//
// The dtype is float32, or bfloat16 if the library has MPIX_BFLOAT16; other entries are skipped.
#define _GNU_SOURCE
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { MOST_CALLS = 3000, FEWEST_CALLS = 5, WARM_UPS = 3, ALIGNMENT = 4096 };

enum collective { ALL_REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, COLLECTIVES };
static const char* const names[] = {"all_reduce", "broadcast", "all_gather", "reduce_scatter",
                                    "all_to_all"};

struct entry {
  enum collective collective;
  const char* dtype;
  MPI_Datatype type;
  size_t element_size;
  size_t bytes;
  int count;  // elements of the whole buffer
};

static int rank, ranks;
static int touch;
static double budget = 0.25;
static double seconds[MOST_CALLS], slowest[MOST_CALLS];

static int in_place(const struct entry* entry) { return entry->collective <= BROADCAST; }

static void run(const struct entry* entry, void* input, void* data) {
  const int part = entry->count / ranks;
  const MPI_Datatype type = entry->type;
  switch (entry->collective) {
    case ALL_REDUCE:
      MPI_Allreduce(MPI_IN_PLACE, data, entry->count, type, MPI_SUM, MPI_COMM_WORLD);
      break;
    case BROADCAST:
      MPI_Bcast(data, entry->count, type, 0, MPI_COMM_WORLD);
      break;
    case ALL_GATHER:
      MPI_Allgather(input, part, type, data, part, type, MPI_COMM_WORLD);
      break;
    case REDUCE_SCATTER:
      MPI_Reduce_scatter_block(input, data, part, type, MPI_SUM, MPI_COMM_WORLD);
      break;
    default:
      MPI_Alltoall(input, part, type, data, part, type, MPI_COMM_WORLD);
  }
}

static void fill(const struct entry* entry, void* memory, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (entry->element_size == 2) bits >>= 16;
  for (int i = 0; i < entry->count; ++i) {
    memcpy((char*)memory + (size_t)i * entry->element_size, &bits, entry->element_size);
  }
}

static float at(const struct entry* entry, const void* memory, int element) {
  uint32_t bits = 0;
  memcpy(&bits, (const char*)memory + (size_t)element * entry->element_size, entry->element_size);
  if (entry->element_size == 2) bits <<= 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Whether the result is right for inputs of which every element is rank + 1.
static int correct(const struct entry* entry, const void* data) {
  const int part = entry->count / ranks;
  const int outputs = entry->collective == REDUCE_SCATTER ? part : entry->count;
  for (int i = 0; i < outputs; ++i) {
    float expected = (float)(ranks * (ranks + 1) / 2);
    if (entry->collective == BROADCAST) expected = 1;
    if (entry->collective == ALL_GATHER || entry->collective == ALL_TO_ALL) {
      expected = (float)(1 + i / part);
    }
    if (at(entry, data, i) != expected) return 0;
  }
  return 1;
}

static double timed(const struct entry* entry, void* input, void* data) {
  if (touch) memset(in_place(entry) ? data : input, 0, entry->bytes);
  if (touch || entry->collective == BROADCAST) MPI_Barrier(MPI_COMM_WORLD);
  const double start = MPI_Wtime();
  run(entry, input, data);
  return MPI_Wtime() - start;
}

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

// Rank 0 decides, so that all ranks make the same number of calls.
static int calls_for(double least) {
  double wanted = budget / (least > 1e-7 ? least : 1e-7);
  if (wanted > MOST_CALLS) wanted = MOST_CALLS;
  int calls = wanted < FEWEST_CALLS ? FEWEST_CALLS : (int)wanted;
  MPI_Bcast(&calls, 1, MPI_INT, 0, MPI_COMM_WORLD);
  return calls;
}

static int by_size(const void* left, const void* right) {
  const double a = *(const double*)left, b = *(const double*)right;
  return (a > b) - (a < b);
}

static void report(const struct entry* entry, int calls, int is_correct, double cpu) {
  double cpu_of_all;
  int correct_everywhere;
  MPI_Reduce(seconds, slowest, calls, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
  MPI_Reduce(&cpu, &cpu_of_all, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
  MPI_Reduce(&is_correct, &correct_everywhere, 1, MPI_INT, MPI_MIN, 0, MPI_COMM_WORLD);
  if (rank != 0) return;
  qsort(slowest, (size_t)calls, sizeof(double), by_size);
  printf(
      "@@ {\"op\":\"%s\",\"dtype\":\"%s\",\"bytes\":%zu,\"n\":%d,\"iters\":%d,\"ok\":%s,"
      "\"p50_us\":%.3f,\"cpu_user_s\":%.6f,\"cpu_sys_s\":0}\n",
      names[entry->collective], entry->dtype, entry->bytes, ranks, calls,
      correct_everywhere ? "true" : "false", slowest[calls / 2] * 1e6, cpu_of_all);
  fflush(stdout);
}

static void measure(const struct entry* entry) {
  void *data = NULL, *input = NULL;
  if (posix_memalign(&data, ALIGNMENT, entry->bytes + ALIGNMENT) != 0 ||
      (!in_place(entry) && posix_memalign(&input, ALIGNMENT, entry->bytes + ALIGNMENT) != 0)) {
    fputs("mpi_collectives: out of memory\n", stderr);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  void* const given = in_place(entry) ? data : input;
  fill(entry, given, (float)(rank + 1));
  run(entry, input, data);
  const int is_correct = correct(entry, data);
  memset(given, 0, entry->bytes);
  double least = 1e9;
  for (int i = 0; i < WARM_UPS; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double spent = timed(entry, input, data);
    if (spent < least) least = spent;
  }
  const int calls = calls_for(least);
  MPI_Barrier(MPI_COMM_WORLD);
  const double before = cpu_seconds();
  for (int i = 0; i < calls; ++i) seconds[i] = timed(entry, input, data);
  report(entry, calls, is_correct, cpu_seconds() - before);
  free(data);
  free(input);
}

// Fills `entry`; returns whether this library has its dtype.
static int parse(char* text, struct entry* entry) {
  const char* name = strtok(text, ":");
  entry->dtype = strtok(NULL, ":");
  const char* bytes = strtok(NULL, ":");
  for (entry->collective = ALL_REDUCE; entry->collective < COLLECTIVES; ++entry->collective) {
    if (strcmp(name, names[entry->collective]) == 0) break;
  }
  if (entry->collective == COLLECTIVES || bytes == NULL) {
    fprintf(stderr, "mpi_collectives: '%s' is not COLLECTIVE:DTYPE:BYTES\n", name);
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  entry->type = MPI_FLOAT;
  entry->element_size = 4;
#ifdef MPIX_BFLOAT16
  if (strcmp(entry->dtype, "bfloat16") == 0) {
    entry->type = MPIX_BFLOAT16;
    entry->element_size = 2;
  }
#endif
  entry->bytes = strtoull(bytes, NULL, 10);
  entry->count = (int)(entry->bytes / entry->element_size);
  return entry->type != MPI_DATATYPE_NULL &&
         (strcmp(entry->dtype, "float32") == 0 || entry->element_size == 2);
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--touch") == 0) {
      touch = 1;
    } else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
      budget = atof(argv[++i]);
    } else {
      struct entry entry;
      if (parse(argv[i], &entry)) measure(&entry);
    }
  }
  MPI_Finalize();
  return 0;
}
