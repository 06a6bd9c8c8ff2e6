// SPDX-License-Identifier: Apache-2.0
// Shared by the verbs of one command: the connection to the daemon, credentials, progress and the
// exit status. Not thread-safe.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cmd/call_credentials.h"
#include "cmd/cli.h"
#include "cmd/client.h"
#include "cmd/interrupt.h"
#include "cmd/options.h"
#include "cmd/output.h"
#include "image/reference.h"
#include "proto/control.pb.h"

namespace imagefs {

class ClientSession {
 public:
  // `global` and `out` must outlive this.
  ClientSession(const GlobalOptions& global, Paths paths, std::string_view version, Output& out)
      : global_(global), paths_(std::move(paths)), version_(version), out_(out) {
    if (global.timeout_seconds != 0) SetTimeout(global.timeout_seconds);
  }

  const GlobalOptions& global() const { return global_; }
  const Paths& paths() const { return paths_; }
  const std::string& version() const { return version_; }
  Output& out() { return out_; }
  Interrupts& interrupts() { return interrupts_; }
  bool json() const { return global_.json; }

  // `start`: start a daemon if none runs.
  absl::StatusOr<std::unique_ptr<DaemonClient>> Connect(bool start);
  // Accepts a daemon with any settings. `patience`: of each call, as in DaemonClient::Options.
  absl::StatusOr<std::unique_ptr<DaemonClient>> ConnectToAny(
      std::chrono::seconds patience = std::chrono::seconds(10));

  // Reports `status` to the user and returns the exit status of the verb. `object` as in
  // Output::Fail.
  int Finish(const absl::Status& status, std::string_view object = "");

  // Parses a reference that the user typed: completes a short name as the configuration says, and
  // makes a path absolute, because the daemon has another working directory. The beginning of a
  // digest (list_filter.h) is the image in the store that has it, if there is one; it fails if more
  // than one reference has such a digest. Asks a daemon only in that case.
  absl::StatusOr<Reference> ParseReference(const std::string& text);
  absl::Status AddReferences(const std::vector<std::string>& references,
                             google::protobuf::RepeatedPtrField<std::string>* out);

  // Limits the rest of the command, of which nothing is left after that time (--timeout); 0 = not.
  void SetTimeout(int seconds);

  // Includes the caller's credentials, because the daemon never reads the caller's home directory.
  absl::StatusOr<control::v1::ImageRequest> MakeImageRequest(const std::string& reference,
                                                             const ImageOptions& options);
  absl::Status AddCredential(const Reference& reference, const ImageOptions& options,
                             control::v1::Credential* out);
  CallCredentials& credentials() { return credentials_; }

  // Runs a streaming call (Mount, Pull, ...) and shows its progress.
  template <typename Request>
  using StreamCall = absl::Status (DaemonClient::*)(const Request&, const DaemonClient::OnEvent&);
  template <typename Request>
  absl::StatusOr<control::v1::MountResult> Transfer(DaemonClient& client, const Request& request,
                                                    StreamCall<Request> call) {
    return Transfer(client, request, call, [](const auto&) { return absl::OkStatus(); });
  }
  // The same with a function that takes the parts of the result; an error of it ends the call.
  using OnPart = absl::FunctionRef<absl::Status(const control::v1::MountEvent&)>;
  template <typename Request>
  absl::StatusOr<control::v1::MountResult> Transfer(DaemonClient& client, const Request& request,
                                                    StreamCall<Request> call, OnPart on_part) {
    return Transfer(
        [&](const DaemonClient::OnEvent& on_event) { return (client.*call)(request, on_event); },
        on_part);
  }
  // Prints the result of a mount or a pull.
  void PrintResult(const control::v1::MountResult& result,
                   std::chrono::steady_clock::time_point begin);

 private:
  DaemonClient::Options ClientOptions(bool start);
  absl::Status TimedOut() const;
  // "" = no image in the store has such a digest.
  absl::StatusOr<std::string> ReferenceOfDigest(const std::string& name);
  absl::StatusOr<control::v1::MountResult> Transfer(
      absl::FunctionRef<absl::Status(const DaemonClient::OnEvent&)> call, OnPart on_part);

  const GlobalOptions& global_;
  const Paths paths_;
  const std::string version_;
  Output& out_;
  Interrupts interrupts_;
  CallCredentials credentials_{interrupts_};
  int timeout_seconds_ = 0;
  std::string trouble_;             // why the running transfer waits, as its progress has it
  std::string credential_trouble_;  // why the last image has no credentials
};

}  // namespace imagefs
