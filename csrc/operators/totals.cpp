#include <algorithm>
#include <cmath>

#include "operators/operators.h"

namespace krypton {

namespace {

// An operator that takes sums over all cells of an image.
class Total : public Operator {
  public:
    explicit Total(int64_t cells) : cells_(cells) {}

    Box reach(const Box* changed) const override { return changed[0].empty() ? Box{} : one_cell(); }
    bool totals() const override { return true; }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            // A change reads its cells twice, and what it leaves of a sum has the sum's rounding.
            const bool whole = !job.base || 2 * job.in[0].box.cells() >= cells_;
            whole ? compute_whole(kernels, job, scratch) : change(kernels, job, scratch);
        }
    }

    std::size_t scratch_bytes(const Box&, int64_t) const override {
        return static_cast<std::size_t>(2 * cells_ * 8 + 3 * stored * 8 + 4096);
    }

  protected:
    int64_t cells_;  // of the operand

    virtual void compute_whole(const Kernels& kernels, const Job& job, Scratch& scratch) const = 0;
    // From the job's base, by what the changed box of the operand changes.
    virtual void change(const Kernels& kernels, const Job& job, Scratch& scratch) const = 0;

    static Plane unchanged(Plane plane) {
        plane.box = {};
        return plane;
    }

    static const float** pixels(const Plane& plane, const Box& box, Scratch& scratch) {
        const float** found = scratch.take<const float*>(box.cells());
        plane.pixels(box, nullptr, found);
        return found;
    }
};

class Moments : public Total {
  public:
    Moments(int64_t cells, bool variance) : Total(cells), variance_(variance) {}

  private:
    bool variance_;

    void compute_whole(const Kernels& kernels, const Job& job, Scratch& scratch) const override {
        const Plane& in = job.in[0];
        const Box all = Box::of(in.sizes);
        const double cells = static_cast<double>(cells_);
        const float** now = pixels(in, all, scratch);
        double* sums = scratch.take<double>(in.channels);
        float *mean = job.out, *variance = job.out + in.channels;
        kernels.sum({all.cells(), in.channels, now, nullptr, nullptr, sums, nullptr});
        for (int64_t c = 0; c < in.channels; ++c) mean[c] = static_cast<float>(sums[c] / cells);
        if (!variance_) return;
        double* squares = scratch.take<double>(in.channels);
        kernels.sum({all.cells(), in.channels, now, nullptr, mean, sums, squares});
        for (int64_t c = 0; c < in.channels; ++c) variance[c] = static_cast<float>(squares[c] / cells);
    }

    // Squares are of distances from the un-occluded mean: squares of the values would cancel.
    void change(const Kernels& kernels, const Job& job, Scratch& scratch) const override {
        const Plane& in = job.in[0];
        const double cells = static_cast<double>(cells_);
        const float** now = pixels(in, in.box, scratch);
        const float** before = pixels(unchanged(in), in.box, scratch);
        double* sums = scratch.take<double>(in.channels);
        double* squares = variance_ ? scratch.take<double>(in.channels) : nullptr;
        const float* mean = job.base;
        kernels.sum({in.box.cells(), in.channels, now, before, variance_ ? mean : nullptr, sums, squares});
        for (int64_t c = 0; c < in.channels; ++c) {
            const double moved = sums[c] / cells;
            job.out[c] = static_cast<float>(mean[c] + moved);
            if (!variance_) continue;
            const double variance = mean[in.channels + c] + squares[c] / cells - moved * moved;
            job.out[in.channels + c] = static_cast<float>(std::max(variance, 0.0));
        }
    }
};

class EuclideanNorm : public Total {
  public:
    using Total::Total;

  private:
    void compute_whole(const Kernels& kernels, const Job& job, Scratch& scratch) const override {
        compute(kernels, job, Box::of(job.in[0].sizes), false, scratch);
    }

    void change(const Kernels& kernels, const Job& job, Scratch& scratch) const override {
        compute(kernels, job, job.in[0].box, true, scratch);
    }

    static void compute(const Kernels& kernels, const Job& job, const Box& box, bool changes,
                        Scratch& scratch) {
        const Plane& in = job.in[0];
        const float** now = pixels(in, box, scratch);
        const float** before = changes ? pixels(unchanged(in), box, scratch) : nullptr;
        float* origin = scratch.take<float>(in.channels);
        std::fill_n(origin, in.channels, 0.0f);
        double *sums = scratch.take<double>(in.channels), *squares = scratch.take<double>(in.channels);
        kernels.sum({box.cells(), in.channels, now, before, origin, sums, squares});
        for (int64_t c = 0; c < in.channels; ++c) {
            const double base = changes ? job.base[c] : 0;
            job.out[c] = static_cast<float>(std::sqrt(std::max(base * base + squares[c], 0.0)));
        }
    }
};

// The largest number of every channel.
class Largest : public Total {
  public:
    using Total::Total;

  private:
    void compute_whole(const Kernels& kernels, const Job& job, Scratch& scratch) const override {
        take(kernels, job.in[0], Box::of(job.in[0].sizes), job.out, scratch);
    }

    // A channel whose largest number was in the box, and is no more, may have it anywhere.
    void change(const Kernels& kernels, const Job& job, Scratch& scratch) const override {
        const Plane& in = job.in[0];
        float* before = scratch.take<float>(in.channels);
        take(kernels, unchanged(in), in.box, before, scratch);
        take(kernels, in, in.box, job.out, scratch);
        const float** all = nullptr;
        for (int64_t c = 0; c < in.channels; ++c) {
            if (before[c] < job.base[c] || job.out[c] >= job.base[c]) {
                job.out[c] = std::max(job.out[c], job.base[c]);
                continue;
            }
            if (!all) all = pixels(in, Box::of(in.sizes), scratch);
            for (int64_t cell = 0; cell < cells_; ++cell) job.out[c] = std::max(job.out[c], all[cell][c]);
        }
    }

    static void take(const Kernels& kernels, const Plane& plane, const Box& box, float* out,
                     Scratch& scratch) {
        kernels.pool({1, box.cells(), plane.channels, pixels(plane, box, scratch), 1, nullptr, &out});
    }
};

class Norm : public Operator {
  public:
    Norm(int64_t channels, int64_t groups, float epsilon, std::vector<float> weight, std::vector<float> bias)
        : channels_(channels),
          groups_(groups),
          epsilon_(epsilon),
          weight_(std::move(weight)),
          bias_(std::move(bias)) {}

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch&) const override {
        for (int64_t i = 0; i < count; ++i) normalise(jobs[i].in[0].pixel(), jobs[i].out);
    }

    std::size_t scratch_bytes(const Box&, int64_t) const override { return 0; }
    bool reads_context(int) const override { return false; }

  private:
    int64_t channels_, groups_;
    float epsilon_;
    std::vector<float> weight_, bias_;

    void normalise(const float* moments, float* out) const {
        const int64_t half = stored / 2, size = channels_ / groups_;
        std::fill_n(out, stored, 0.0f);
        for (int64_t first = 0; first < channels_; first += size) {
            double mean = 0, variance = 0;
            for (int64_t c = first; c < first + size; ++c) mean += moments[c] / static_cast<double>(size);
            for (int64_t c = first; c < first + size; ++c) {
                const double apart = moments[c] - mean;
                variance += (moments[half + c] + apart * apart) / static_cast<double>(size);
            }
            const double scale = 1 / std::sqrt(variance + epsilon_);
            for (int64_t c = first; c < first + size; ++c) {
                const double factor = weight_.empty() ? scale : scale * weight_[c];
                out[c] = static_cast<float>(factor);
                out[half + c] = static_cast<float>((bias_.empty() ? 0.0 : double{bias_[c]}) - mean * factor);
            }
        }
    }
};

}  // namespace

std::unique_ptr<Operator> make_moments(int64_t cells, bool variance) {
    return std::make_unique<Moments>(cells, variance);
}

std::unique_ptr<Operator> make_euclidean_norm(int64_t cells) {
    return std::make_unique<EuclideanNorm>(cells);
}

std::unique_ptr<Operator> make_largest(int64_t cells) { return std::make_unique<Largest>(cells); }

std::unique_ptr<Operator> make_norm(int64_t channels, int64_t groups, float epsilon,
                                    std::vector<float> weight, std::vector<float> bias) {
    return std::make_unique<Norm>(channels, groups, epsilon, std::move(weight), std::move(bias));
}

}  // namespace krypton
