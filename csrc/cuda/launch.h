// A body on every row: on the GPU where nvcc compiles this, else in a loop.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/kernels.h"

namespace krypton::cuda {

#ifdef __CUDACC__

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 20;  // beyond, a thread takes several rows

template <typename Body>
__global__ void __launch_bounds__(kThreads) on_rows(Body body, int64_t rows) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
    for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += step)
        body(row, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
}

inline void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// `columns` is what the lanes of a row share.
template <typename Body>
void launch(const Body& body, int64_t rows, int64_t columns, Stream stream) {
    if (rows == 0) return;
    int lanes = 1;
    while (lanes < 32 && lanes < columns) lanes *= 2;
    const int beside = kThreads / lanes;
    const int64_t blocks = std::min(kMostBlocks, (rows + beside - 1) / beside);
    on_rows<<<static_cast<unsigned>(blocks), dim3(lanes, beside), 0, static_cast<cudaStream_t>(stream)>>>(
        body, rows);
    check(cudaGetLastError());
}

inline void clear(void* memory, std::size_t bytes, Stream stream) {
    check(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
}

#else

template <typename Body>
void launch(const Body& body, int64_t rows, int64_t, Stream) {
    for (int64_t row = 0; row < rows; ++row) body(row, 0, 1);
}

inline void clear(void* memory, std::size_t bytes, Stream) { std::memset(memory, 0, bytes); }

#endif

}  // namespace krypton::cuda
