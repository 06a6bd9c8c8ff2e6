// SPDX-License-Identifier: Apache-2.0
// The push of one blob to a registry: checks for it, mounts it, or uploads it. Runs on the HTTP
// client's thread.
//
//   HEAD ->  exists: done
//   POST ->  mounted: done; else an upload, whose location each response may change
//   PUT      small blobs: all bytes at once, which also completes the upload
//   PATCH..  larger ones: chunks in order, then a PUT without bytes
//
// An interrupted chunk resumes at the offset that the registry reports (GET). If the registry has
// lost the upload, or a PUT is interrupted, the push restarts with HEAD, which finds a blob that
// was accepted after all.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "fetch/registry_call.h"
#include "fetch/registry_writer.h"

namespace imagefs {

class BlobPush : public std::enable_shared_from_this<BlobPush> {
 public:
  // May be called on any thread.
  static void Run(std::shared_ptr<RegistryShared> shared,
                  std::shared_ptr<const RegistryEndpoint> endpoint, RegistryWriter::Blob blob,
                  CancelToken cancel, RegistryWriter::BlobDone done);

 private:
  using OnAnswer = void (BlobPush::*)(absl::StatusOr<HttpResponse>);

  BlobPush(std::shared_ptr<RegistryShared> shared, std::shared_ptr<const RegistryEndpoint> endpoint,
           RegistryWriter::Blob blob, CancelToken cancel, RegistryWriter::BlobDone done);

  void Ask();
  void OnAsked(absl::StatusOr<HttpResponse> response);
  void StartMount();
  void OnMount(absl::StatusOr<HttpResponse> response);
  void StartUpload();
  void OnUpload(absl::StatusOr<HttpResponse> response);
  void Continue();
  void SendChunk();
  void OnChunk(absl::StatusOr<HttpResponse> response);
  void QueryOffset();
  void OnHowFar(absl::StatusOr<HttpResponse> response);
  void SendEnd();
  void OnEnd(absl::StatusOr<HttpResponse> response);

  absl::Status TakeLocation(const HttpResponse& response);
  // Takes the progress of an upload from `header`, in which the registry states how much of `size_`
  // bytes it has.
  absl::Status TakeProgress(const std::string& header, uint64_t when_absent);
  RegistryCall::Spec NewSpec(std::string method) const;
  std::function<absl::StatusOr<std::string>()> Bytes(uint64_t begin, uint64_t end);
  void Call(std::shared_ptr<const RegistryEndpoint> endpoint, RegistryCall::Spec spec,
            OnAnswer on_answer);
  void Again(absl::Status failure, void (BlobPush::*step)());
  void Abandon();
  void Finish(absl::StatusOr<RegistryWriter::PushedBlob> result);

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const RegistryWriter::Blob blob_;
  const std::string what_;
  const CancelToken cancel_;
  GuardedDone<absl::StatusOr<RegistryWriter::PushedBlob>> done_;
  CancelToken::Registration registration_;

  bool mount_tried_ = false;
  std::optional<Url> location_;  // location of the open upload
  uint64_t chunk_bytes_ = 0;
  uint64_t at_ = 0;         // bytes that the registry has
  uint64_t best_ = 0;       // the largest at_ so far: exceeding it is progress
  uint64_t chunk_end_ = 0;  // end of the chunk in flight
  uint64_t sent_ = 0;
  int attempts_ = 0;  // consecutive failures without progress
};

}  // namespace imagefs
