// What also runs on a GPU where nvcc compiles it.
#pragma once

#ifdef __CUDACC__
#define KRYPTON_HD __host__ __device__
#else
#define KRYPTON_HD
#endif
