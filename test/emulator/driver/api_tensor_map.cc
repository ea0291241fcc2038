// Exported function: description of a tensor in global memory for tile copies.
#include <cstring>

#include "cuda_api.h"
#include "driver.h"
#include "tensor_map.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

namespace {

void requireValue(bool holds, const char* why) { require(holds, CUDA_ERROR_INVALID_VALUE, why); }

unsigned elementBytes(int dataType) {
  switch (dataType) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ:
      return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
    default:
      throw DriverError(CUDA_ERROR_INVALID_VALUE, "the data type is not one of tensor maps");
  }
}

// The rules of the CUDA driver API reference, cuTensorMapEncodeTiled.
void checkTile(const TensorMap& map, const unsigned* box, const unsigned* elementStrides) {
  for (unsigned i = 0; i < map.rank; ++i) {
    requireValue(box[i] >= 1 && box[i] <= 256, "a box extent is not in 1 … 256");
    requireValue(elementStrides[i] >= 1 && elementStrides[i] <= 8, "an element stride is not in 1 … 8");
  }
  const unsigned innerBytes = box[0] * map.elementBytes;
  requireValue(map.interleave != 0 || innerBytes % 16 == 0, "a row of the box is no multiple of 16 bytes");
  requireValue(map.swizzle == 0 || map.interleave != 0 || innerBytes <= 16u << map.swizzle,
               "a row of the box is longer than the swizzle span");
  requireValue(map.interleave != 2 || map.swizzle == 1, "interleave of 32 bytes wants swizzle of 32 bytes");
}

}  // namespace

CUresult cuTensorMapEncodeTiled(CUtensorMap* target, int dataType, unsigned rank, void* address,
                                const std::uint64_t* dimensions, const std::uint64_t* strides,
                                const unsigned* box, const unsigned* elementStrides, int interleave,
                                int swizzle, int l2Promotion, int outOfBoundsFill) {
  return driverCall("cuTensorMapEncodeTiled", Needs::driver, [&](Driver& driver, DriverLock&) {
    require(driver.settings.computeMajor >= 9, CUDA_ERROR_NOT_SUPPORTED, "tensor maps need sm_90");
    requireValue(target && reinterpret_cast<std::uintptr_t>(target) % 64 == 0,
                 "the map is not 64-byte aligned");
    requireValue(rank >= 1 && rank <= TensorMap::maxRank, "the rank is not in 1 … 5");
    requireValue(dimensions && box && elementStrides && (rank == 1 || strides), "an array is null");
    requireValue(interleave >= 0 && interleave <= 2 && (interleave == 0 || rank >= 3), "a wrong interleave");
    requireValue(swizzle >= 0 && swizzle <= 3, "the swizzle is not emulated");
    requireValue(l2Promotion >= 0 && l2Promotion <= 3 && outOfBoundsFill >= 0 && outOfBoundsFill <= 1,
                 "a wrong promotion or fill");
    const std::uint64_t alignment = interleave == 2 ? 32 : 16;
    TensorMap map{};
    map.magic = TensorMap::mark;
    map.rank = static_cast<std::uint8_t>(rank);
    map.dataType = static_cast<std::uint8_t>(dataType);
    map.elementBytes = static_cast<std::uint8_t>(elementBytes(dataType));
    map.interleave = static_cast<std::uint8_t>(interleave);
    map.swizzle = static_cast<std::uint8_t>(swizzle);
    map.fillWithNan = static_cast<std::uint8_t>(outOfBoundsFill);
    map.address = reinterpret_cast<std::uintptr_t>(address);
    requireValue(address && map.address % alignment == 0, "the tensor's address is not aligned");
    checkTile(map, box, elementStrides);
    for (unsigned i = 0; i < rank; ++i) {
      requireValue(dimensions[i] >= 1 && dimensions[i] <= std::uint64_t{1} << 32,
                   "an extent is not in 1 … 2^32");
      map.lastIndex[i] = static_cast<std::uint32_t>(dimensions[i] - 1);
      map.box[i] = static_cast<std::uint16_t>(box[i]);
      map.elementStrides[i] = static_cast<std::uint8_t>(elementStrides[i]);
    }
    for (unsigned i = 0; i + 1 < rank; ++i) {
      requireValue(strides[i] % alignment == 0 && strides[i] < std::uint64_t{1} << 40,
                   "a stride is not a multiple of 16 bytes below 2^40");
      map.strides[i] = strides[i];
    }
    std::memcpy(target, &map, sizeof map);
    return CUDA_SUCCESS;
  });
}
