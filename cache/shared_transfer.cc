// SPDX-License-Identifier: Apache-2.0
#include "cache/shared_transfer.h"

#include <fcntl.h>

#include <utility>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/thread_role.h"

namespace imagefs {

absl::StatusOr<uint64_t> ExportImage(const LayerStore& layers, const ResolvedImage& image,
                                     const Chain& chain, const std::string& directory,
                                     const CancelToken& cancel) {
  IMAGEFS_ASSIGN_OR_RETURN(SharedStoreWriter writer, SharedStoreWriter::Open(directory));
  uint64_t added = 0;
  for (const LayerRef& layer : chain.layers) {
    IMAGEFS_ASSIGN_OR_RETURN(const SharedLayer shared, layers.Describe(layer->diff_id));
    IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(shared.data, O_RDONLY));
    IMAGEFS_ASSIGN_OR_RETURN(const uint64_t bytes, writer.PutLayer(shared, data, cancel));
    added += bytes;
  }
  IMAGEFS_RETURN_IF_ERROR(writer.PutImage(image));
  return added;
}

absl::StatusOr<std::vector<LayerRef>> ImportLayers(LayerStore& layers, const SharedStores& from,
                                                   const std::vector<Digest>& diff_ids,
                                                   const CancelToken& cancel) {
  std::vector<LayerRef> imported;
  for (const Digest& diff_id : diff_ids) {
    IMAGEFS_ASSIGN_OR_RETURN(const SharedLayer shared, from.FindLayer(diff_id));
    IMAGEFS_ASSIGN_OR_RETURN(LayerRef layer, layers.Import(shared, cancel));
    imported.push_back(std::move(layer));
  }
  absl::Status durable;
  absl::Notification synced;
  layers.WaitDurable(diff_ids, [&](absl::Status status) {
    durable = std::move(status);
    synced.Notify();
  });
  MayBlock("waiting for the sync of imported layers");
  synced.WaitForNotification();
  IMAGEFS_RETURN_IF_ERROR(durable);
  return imported;
}

}  // namespace imagefs
