// SPDX-License-Identifier: Apache-2.0
// What the kubelet's configuration (KubeletConfiguration, kubelet.config.k8s.io/v1beta1) says about
// the disk of the images. Pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace imagefs {

struct KubeletDiskLimits {
  // The kubelet removes images when the disk is fuller than this: imageGCHighThresholdPercent.
  unsigned high_percent = 85;
  // It evicts pods when less is free, in percent: evictionHard, imagefs.available. 0 if it is a
  // number of bytes.
  unsigned evict_free_percent = 15;
  // The part of the disk that must be free for the kubelet to do neither, in percent.
  unsigned least_free_percent() const {
    const unsigned gc = 100 - high_percent;
    return gc > evict_free_percent ? gc : evict_free_percent;
  }
};

// The kubelet's defaults for what `text` does not set. `path` names the file in errors.
absl::StatusOr<KubeletDiskLimits> ParseKubeletDiskLimits(const std::string& text,
                                                         const std::string& path);

}  // namespace imagefs
