// The equations of kriging: for many targets, each a small symmetric system over its nearest sources.
#pragma once

#include <cstdint>
#include <vector>

namespace krypton {

// Covariances of the positions of a grid, by their distance along each axis.
struct Covariances {
    std::vector<int64_t> shape;  // of the grid, and of the table
    const double* table;
};

// What simple or ordinary kriging solves.
struct Kriging {
    Covariances grid;
    int64_t sources;   // that a target has
    double nugget;     // added to the variance of each source
    bool level_known;  // whether the mean is; else weights sum to one
};

// Weights of every target's sources, (targets, sources), and the Lagrange multiplier of their sum, (targets),
// 0 where the level is known. `positions` are numbers of the grid's cells, `near` the covariances of each
// source with the target.
void kriging_weights(const Kriging& kriging, const int64_t* positions, const double* near, int64_t targets,
                     double* weights, double* multipliers);

}  // namespace krypton
