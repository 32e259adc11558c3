// The CUDA kernels as the rest of the program sees them: raw pointers in, work on a stream, no waiting.
#pragma once

#include "cuda/cells.h"
#include "cuda/pointwise.h"

namespace krypton::cuda {

using Stream = void*;  // a cudaStream_t

enum class Element : int { kFloat, kHalf, kBFloat };

struct Out {
    void* data;
    int64_t pitch;  // elements from one cell to the next
};

struct Boxes {
    Box3 box;
    int64_t copies;
    int64_t first = 0;  // the number of the first copy

    int64_t rows() const { return copies * box.cells(); }
};

// Lengths are in elements, of `element`. Everything throws std::runtime_error where the launch fails.
void compose(const Cells& from, const Read* reads, const Boxes& boxes, const Taps& taps, const Out& out,
             int64_t columns, float fill, bool overlay, Element element, Stream stream);
void finish(void* x, int64_t columns, const float* bias, const Cells* residual, const Read* reads,
            const Boxes& boxes, const Epilogue& epilogue, Element element, Stream stream);
void pool(const Cells& from, const Read* reads, const int* kernel, const float* const* divisors, bool maximum,
          const Boxes& boxes, void* out, int64_t columns, Element element, Stream stream);
// `marks`: room for the extents of every copy's box; `left`: (copies, axes, 2); `effect`: (copies).
void shrink(const Cells& cells, const Boxes& boxes, int64_t columns, float threshold, const void* gradient,
            int* marks, int* left, double* effect, Element element, Stream stream);

}  // namespace krypton::cuda
