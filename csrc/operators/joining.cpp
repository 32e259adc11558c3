#include <cstring>

#include "operators/cellwise.h"
#include "operators/operators.h"

namespace krypton {

namespace {

class Concat : public Cellwise {
  public:
    Concat(std::vector<Piece> pieces, std::vector<float> scale, std::vector<float> shift)
        : pieces_(std::move(pieces)), scale_(std::move(scale)), shift_(std::move(shift)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            const float*** in = scratch.take<const float**>(static_cast<int64_t>(operands.size()));
            for (std::size_t k = 0; k < operands.size(); ++k)
                in[k] = in_pixels(job, static_cast<int>(k), scratch);
            float* to = job.out;
            for (int64_t cell = 0; cell < job.box.cells(); ++cell) {
                float* const end = to + stored;
                for (const Piece& piece : pieces_) {
                    const float* from = in[piece.operand][cell] + piece.channels.lo;
                    const int64_t size = piece.channels.size();
                    if (size == 1)  // of a shuffle all are
                        *to = *from;
                    else
                        std::memcpy(to, from, size * sizeof(float));
                    to += size;
                }
                to = std::fill_n(to, end - to, 0.0f);
            }
            if (scale_.empty() && !epilogue.clamps()) continue;
            float** out = out_pixels(job, stored, scratch);
            kernels.combine({kAdd, job.box.cells(), stored, out, nullptr,
                             scale_.empty() ? nullptr : scale_.data(), shift_.data(), out, epilogue.low,
                             epilogue.high});
        }
    }

  private:
    std::vector<Piece> pieces_;
    std::vector<float> scale_, shift_;
};

}  // namespace

std::unique_ptr<Operator> make_concat(std::vector<Piece> pieces, std::vector<float> scale,
                                      std::vector<float> shift) {
    return std::make_unique<Concat>(std::move(pieces), std::move(scale), std::move(shift));
}

}  // namespace krypton
