#include "operators/operators.h"
#include "operators/sliding.h"
#include "operators/winograd.h"

namespace krypton {

namespace {

// Every kernel, stride, dilation and group count: a panel of outputs reads a range of channels at every tap.
class GemmConvolution : public Window {
  public:
    GemmConvolution(const Kernels& kernels, const ConvolutionShape& shape, const float* weight,
                    const float* bias)
        : Window(shape.maps), channels_(shape.in_channels) {
        stored = stored_channels(shape.out_channels);
        const int64_t width = kernels.panel, out_group = shape.out_channels / shape.groups,
                      in_group = shape.in_channels / shape.groups;
        bias_ = padded(bias, shape.out_channels, stored + width);
        // Few channels make many short sums: gather them into long ones.
        gathered_ = shape.groups == 1 && channels_ < kChannelStep && taps() > 1;
        for (int64_t first = 0; first < stored; first += width) {
            Part part;
            const int64_t last = std::min(first + width, shape.out_channels) - 1;
            const int64_t first_group = std::min(first, last) / out_group;
            part.offset = first_group * in_group;
            part.depth = (last / out_group + 1) * in_group - part.offset;
            part.columns = std::min(width, stored - first);
            part.weight.assign(taps() * part.depth * width, 0.0f);
            for (int64_t o = first; o <= last; ++o)
                for (int64_t c = 0; c < in_group; ++c)
                    for (int64_t t = 0; t < taps(); ++t) {
                        const int64_t channel = o / out_group * in_group + c - part.offset;
                        part.weight[(t * part.depth + channel) * width + o - first] =
                            weight[(o * in_group + c) * taps() + t];
                    }
            parts_.push_back(std::move(part));
        }
    }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        const int64_t depth = taps() * channels_;
        float* rows = gathered_ ? scratch.take<float>(kBlock * depth) : nullptr;
        const float** pointers = gathered_ ? scratch.take<const float*>(kBlock) : nullptr;
        for_blocks(jobs, count, scratch, 0.0f, [&](const Block& block) {
            Multiply m{};
            m.rows = block.rows;
            m.a_stride = kBlock;
            if (gathered_) {
                for (int64_t r = 0; r < block.rows; ++r) {
                    float* row = rows + r * depth;
                    pointers[r] = row;
                    for (int64_t t = 0; t < taps(); ++t)
                        for (int64_t c = 0; c < channels_; ++c) *row++ = block.a[t * kBlock + r][c];
                }
            }
            m.c = block.out;
            m.taps = gathered_ ? 1 : taps();
            m.a = gathered_ ? pointers : block.a;
            m.residual = block.residual;
            m.low = epilogue.low;
            m.high = epilogue.high;
            for (std::size_t p = 0; p < parts_.size(); ++p) {
                m.depth = gathered_ ? depth : parts_[p].depth;
                m.a_offset = parts_[p].offset;
                m.columns = parts_[p].columns;
                m.c_offset = static_cast<int64_t>(p) * kernels.panel;
                m.b = parts_[p].weight.data();
                m.bias = bias_.data() + m.c_offset;
                kernels.multiply(m);
            }
        });
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override {
        return block_bytes(box) + (gathered_ ? kBlock * taps() * channels_ * 4 + kBlock * 8 + 256 : 0);
    }

    int64_t preferred_cells() const override { return kBlock; }

    std::size_t weight_bytes() const override {
        std::size_t bytes = bias_.size() * 4;
        for (const Part& part : parts_) bytes += part.weight.size() * 4;
        return bytes;
    }

  private:
    struct Part {
        int64_t offset, depth, columns;
        std::vector<float> weight;
    };
    int64_t channels_;
    bool gathered_;
    std::vector<Part> parts_;
    std::vector<float> bias_;
};

class DepthwiseConvolution : public Window {
  public:
    DepthwiseConvolution(const ConvolutionShape& shape, const float* weight, const float* bias)
        : Window(shape.maps) {
        stored = stored_channels(shape.out_channels);
        bias_ = padded(bias, shape.out_channels, stored);
        weight_.assign(taps() * stored, 0.0f);
        for (int64_t c = 0; c < shape.out_channels; ++c)
            for (int64_t t = 0; t < taps(); ++t) weight_[t * stored + c] = weight[c * taps() + t];
    }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for_blocks(jobs, count, scratch, 0.0f, [&](const Block& block) {
            kernels.depthwise({block.rows, taps(), stored, block.a, kBlock, weight_.data(), bias_.data(),
                               block.residual, block.out, epilogue.low, epilogue.high});
        });
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override { return block_bytes(box); }
    std::size_t weight_bytes() const override { return (weight_.size() + bias_.size()) * 4; }

  private:
    std::vector<float> weight_, bias_;
};

}  // namespace

std::unique_ptr<Operator> make_convolution(const Kernels& kernels, const ConvolutionShape& shape,
                                           const float* weight, const float* bias) {
    if (shape.groups == shape.in_channels && shape.out_channels == shape.in_channels && shape.groups > 1)
        return std::make_unique<DepthwiseConvolution>(shape, weight, bias);
    if (has_winograd(shape)) return make_winograd(kernels, shape, weight, bias);
    return std::make_unique<GemmConvolution>(kernels, shape, weight, bias);
}

}  // namespace krypton
