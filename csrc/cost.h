// What operators and layers cost a run: measured only where somebody asks.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "program.h"

namespace krypton {

struct Cost {
    double seconds = 0;  // of all threads together
    int64_t cells = 0;   // computed; of a layer on vectors of other layers, vectors

    void add(const Cost& other) {
        seconds += other.seconds;
        cells += other.cells;
    }
};

struct Costs {
    std::vector<Cost> values;  // of the operator that computes each; of the input, what occluding it costs
    std::vector<Cost> layers;

    explicit Costs(const Program& program)
        : values(program.values().size()), layers(program.layers().size()) {}
    void add(const Costs& other) {
        for (std::size_t v = 0; v < values.size(); ++v) values[v].add(other.values[v]);
        for (std::size_t l = 0; l < layers.size(); ++l) layers[l].add(other.layers[l]);
    }
};

// Adds the time from its making to its end to a cost; does nothing without one.
class Stopwatch {
  public:
    explicit Stopwatch(Cost* cost) : cost_(cost) {
        if (cost_) start_ = Clock::now();
    }
    ~Stopwatch() {
        if (cost_) cost_->seconds += std::chrono::duration<double>(Clock::now() - start_).count();
    }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

  private:
    using Clock = std::chrono::steady_clock;
    Cost* cost_;
    Clock::time_point start_;
};

}  // namespace krypton
