// The collectives of an MPI library, for bench/torch_rank.py to call from Python. Every function
// returns MPI's error code. All elements are float32; a count is of the elements of one rank's
// share, or of the whole buffer where all ranks have the same.
//
//   mpicc -O2 -shared -fPIC bench/mpi_library.c -o libmpi_calls.so
#include <mpi.h>
#include <stddef.h>

int mpi_join(int* rank, int* ranks) {
  const int error = MPI_Init(NULL, NULL);
  if (error != MPI_SUCCESS) return error;
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  return MPI_Comm_size(MPI_COMM_WORLD, ranks);
}

int mpi_leave(void) { return MPI_Finalize(); }

int mpi_all_reduce(const void* input, void* output, int count) {
  const void* const from = input == output ? MPI_IN_PLACE : input;
  return MPI_Allreduce(from, output, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

int mpi_broadcast(const void* input, void* output, int count) {
  (void)input;
  return MPI_Bcast(output, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
}

int mpi_all_gather(const void* input, void* output, int count) {
  return MPI_Allgather(input, count, MPI_FLOAT, output, count, MPI_FLOAT, MPI_COMM_WORLD);
}

int mpi_reduce_scatter(const void* input, void* output, int count) {
  return MPI_Reduce_scatter_block(input, output, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

int mpi_all_to_all(const void* input, void* output, int count) {
  return MPI_Alltoall(input, count, MPI_FLOAT, output, count, MPI_FLOAT, MPI_COMM_WORLD);
}
