#include "core/shape.h"

#include <limits>

#include "core/error.h"

namespace softmoe {

Shape::Shape(const std::int64_t* dims, int rank) : rank_(rank) {
  if (rank > kMaxRank) {
    throw Error("ERR_SHAPE", "a tensor of rank " + std::to_string(rank) +
                                 " was asked for; the highest rank is " + std::to_string(kMaxRank) +
                                 ": merge some axes");
  }
  std::int64_t count = 1;
  bool too_large = false;
  for (int i = 0; i < rank; ++i) {
    if (dims[i] < 0) {
      throw Error("ERR_SHAPE", "axis " + std::to_string(i) + " has the negative extent " +
                                   std::to_string(dims[i]) + ": extents are 0 or more");
    }
    dims_[static_cast<std::size_t>(i)] = dims[i];
    if (dims[i] != 0 && count > std::numeric_limits<std::int32_t>::max() / dims[i]) too_large = true;
    if (!too_large) count *= dims[i];
  }
  if (too_large && this->count() != 0) {
    throw Error("ERR_SHAPE",
                "shape " + text() + " has more than 2147483647 elements: split the batch or the tensor");
  }
}

std::int64_t Shape::count() const { return count_from(0); }

std::int64_t Shape::count_before(int axis) const {
  std::int64_t count = 1;
  for (int i = 0; i < axis; ++i) count *= (*this)[i];
  return count;
}

std::int64_t Shape::count_from(int axis) const {
  std::int64_t count = 1;
  for (int i = axis; i < rank_; ++i) {
    if ((*this)[i] == 0) return 0;
    if (count <= std::numeric_limits<std::int32_t>::max()) count *= (*this)[i];
  }
  return count;
}

std::string Shape::text() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string((*this)[i]);
  return text + "]";
}

bool Shape::operator==(const Shape& other) const {
  if (rank_ != other.rank_) return false;
  for (int i = 0; i < rank_; ++i) {
    if ((*this)[i] != other[i]) return false;
  }
  return true;
}

}  // namespace softmoe
