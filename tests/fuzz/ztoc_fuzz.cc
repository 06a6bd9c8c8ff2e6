// SPDX-License-Identifier: Apache-2.0
// SOCI: an index, or else a zTOC behind eight bytes that say how large its blob is.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/digest.h"
#include "image/soci.h"
#include "image/ztoc.h"
#include "tests/fuzz/table_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kPrefix = 8;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.starts_with('{')) {
    imagefs::ParseSociIndex(bytes).IgnoreError();
    return 0;
  }
  if (size < kPrefix) return 0;
  imagefs::Descriptor blob;
  for (size_t i = kPrefix; i-- > 0;) blob.size = blob.size << 8 | data[i];
  const auto table = imagefs::BuildFromZtoc(bytes.substr(kPrefix), blob, imagefs::Sha256Of("diff"));
  if (table.ok()) imagefs::CheckTable(*table);
  return 0;
}
