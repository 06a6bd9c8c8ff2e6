// SPDX-License-Identifier: Apache-2.0
#include "fetch/kubelet_config.h"

#include <yaml-cpp/yaml.h>

#include <optional>
#include <string_view>

#include "base/text.h"

namespace imagefs {
namespace {

// Returns nothing for what is no whole number from 0 to 100, with a percent sign or without.
std::optional<unsigned> Percent(std::string_view text) {
  if (text.ends_with('%')) text.remove_suffix(1);
  // The kubelet also accepts "15.0%".
  if (const size_t dot = text.find('.'); dot != std::string_view::npos) text = text.substr(0, dot);
  const std::optional<uint64_t> value = ParseDecimal(text);
  if (!value.has_value() || *value > 100) return std::nullopt;
  return static_cast<unsigned>(*value);
}

std::string Scalar(const YAML::Node& node) {
  return node.IsDefined() && node.IsScalar() ? node.Scalar() : std::string();
}

}  // namespace

absl::StatusOr<KubeletDiskLimits> ParseKubeletDiskLimits(const std::string& text,
                                                         const std::string& path) {
  KubeletDiskLimits out;
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap() || Scalar(root["kind"]) != "KubeletConfiguration") {
      return absl::InvalidArgumentError(StrCat(path, ": this is not a KubeletConfiguration"));
    }
    if (const std::string high = Scalar(root["imageGCHighThresholdPercent"]); !high.empty()) {
      const std::optional<unsigned> value = Percent(high);
      if (!value.has_value()) {
        return absl::InvalidArgumentError(
            StrCat(path, ": imageGCHighThresholdPercent is not a percentage: ", Printable(high)));
      }
      out.high_percent = *value;
    }
    const YAML::Node hard = root["evictionHard"];
    if (!hard.IsDefined() || !hard.IsMap()) return out;
    // A list that names some signals has no default for the others.
    out.evict_free_percent = 0;
    const std::string free = Scalar(hard["imagefs.available"]);
    if (free.ends_with('%')) out.evict_free_percent = Percent(free).value_or(0);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        StrCat(path, ":", error.mark.line + 1, ": this is not YAML: ", Printable(error.msg)));
  }
  return out;
}

}  // namespace imagefs
