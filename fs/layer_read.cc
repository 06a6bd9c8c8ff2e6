#include "fs/layer_read.h"

#include <algorithm>
#include <cstring>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {

absl::Status ReadLayer(const Layer& layer, uint64_t offset, absl::Span<char> out,
                       absl::Span<const ReadPin> pins) {
  IMAGEFS_ASSIGN_OR_RETURN(const size_t got, PreadFull(layer.data.get(), out, offset));
  if (got != out.size()) {
    return absl::DataLossError(StrCat("data file of layer ", layer.diff_id.Short(),
                                      " ends before byte ", offset + out.size(),
                                      "; remove the image and pull it again"));
  }
  const uint64_t end = offset + out.size();
  for (const ReadPin& pin : pins) {
    for (const ReadPin::Memory& part : pin.memory) {
      const uint64_t first = std::max(offset, part.begin);
      const uint64_t last = std::min<uint64_t>(end, part.begin + part.bytes->size());
      if (part.layer != layer.fill.get() || first >= last) continue;
      std::memcpy(out.data() + (first - offset), part.bytes->data() + (first - part.begin),
                  last - first);
    }
  }
  return absl::OkStatus();
}

}  // namespace imagefs
