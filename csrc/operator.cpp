#include "operator.h"

namespace krypton {

Box Operator::reach(const Box* changed) const {
    Box all = changed[0];
    for (std::size_t i = 1; i < operands.size(); ++i) all = join(all, changed[i]);
    return all;
}

}  // namespace krypton
