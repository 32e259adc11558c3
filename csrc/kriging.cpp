#include "kriging.h"

#include <algorithm>
#include <cstdlib>

namespace krypton {
namespace {

// One target's system, in memory that all share.
class System {
  public:
    explicit System(const Kriging& kriging)
        : grid_(kriging.grid),
          count_(kriging.sources),
          nugget_(kriging.nugget),
          places_(kriging.sources * kriging.grid.shape.size()),
          matrix_(kriging.sources * kriging.sources),
          column_(kriging.sources) {}

    // The covariances of the sources, as L D L': rows of L below its unit diagonal, D on it.
    void factorise(const int64_t* positions) {
        place(positions);
        for (int64_t i = 0; i < count_; ++i) {
            for (int64_t j = 0; j <= i; ++j) row(i)[j] = covariance(i, j);
            row(i)[i] += nugget_;
        }
        for (int64_t j = 0; j < count_; ++j) {
            for (int64_t l = j + 1; l < count_; ++l) column_[l] = row(l)[j];
            for (int64_t i = j + 1; i < count_; ++i) {
                const double ratio = column_[i] / row(j)[j];
                for (int64_t l = j + 1; l <= i; ++l) row(i)[l] -= ratio * column_[l];
                row(i)[j] = ratio;
            }
        }
    }

    // `x` becomes the solution for the right side that it holds.
    void solve(double* x) {
        for (int64_t i = 0; i < count_; ++i)
            for (int64_t l = 0; l < i; ++l) x[i] -= row(i)[l] * x[l];
        for (int64_t i = 0; i < count_; ++i) x[i] /= row(i)[i];
        for (int64_t i = count_ - 1; i > 0; --i)
            for (int64_t l = 0; l < i; ++l) x[l] -= row(i)[l] * x[i];
    }

  private:
    double* row(int64_t i) { return matrix_.data() + i * count_; }

    // The coordinates of every source, axis by axis.
    void place(const int64_t* positions) {
        for (int64_t i = 0; i < count_; ++i) {
            int64_t rest = positions[i];
            for (std::size_t axis = grid_.shape.size(); axis-- > 0; rest /= grid_.shape[axis])
                places_[axis * count_ + i] = rest % grid_.shape[axis];
        }
    }

    double covariance(int64_t i, int64_t j) const {
        int64_t offset = 0;
        for (std::size_t axis = 0; axis < grid_.shape.size(); ++axis) {
            const int64_t* along = places_.data() + axis * count_;
            offset = offset * grid_.shape[axis] + std::llabs(along[i] - along[j]);
        }
        return grid_.table[offset];
    }

    const Covariances& grid_;
    int64_t count_;
    double nugget_;
    std::vector<int64_t> places_;
    std::vector<double> matrix_, column_;
};

}  // namespace

void kriging_weights(const Kriging& kriging, const int64_t* positions, const double* near, int64_t targets,
                     double* weights, double* multipliers) {
    System system(kriging);
    const int64_t count = kriging.sources;
    std::vector<double> ones(count);
    for (int64_t t = 0; t < targets; ++t, positions += count, near += count, weights += count) {
        system.factorise(positions);
        std::copy_n(near, count, weights);
        system.solve(weights);
        multipliers[t] = 0;
        if (kriging.level_known) continue;
        std::fill(ones.begin(), ones.end(), 1.0);
        system.solve(ones.data());
        double sum = 0, sum_of_ones = 0;
        for (int64_t i = 0; i < count; ++i) {
            sum += weights[i];
            sum_of_ones += ones[i];
        }
        multipliers[t] = (sum - 1) / sum_of_ones;
        for (int64_t i = 0; i < count; ++i) weights[i] -= multipliers[t] * ones[i];
    }
}

}  // namespace krypton
