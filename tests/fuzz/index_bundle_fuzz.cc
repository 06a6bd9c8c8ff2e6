// Hostile published indexes: as they come from a registry, and, so that the checks behind the zstd
// frame are reached, as what is in that frame.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/digest.h"
#include "image/index_bundle.h"
#include "image/zstd_frame.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace imagefs;  // NOLINT
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)UnpackBundle(bytes).ok();
  if (const auto bundle = UnpackBundle(CompressZstd(bytes, 1)); bundle.ok()) {
    (void)CheckBundle(*bundle, Sha256Of("blob"), 100, Sha256Of("tar")).ok();
  }
  return 0;
}
