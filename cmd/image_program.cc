// SPDX-License-Identifier: Apache-2.0
#include "cmd/image_program.h"

#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/directory.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "image/manifest.h"

namespace imagefs {
namespace {

constexpr char kHandlers[] = "/proc/sys/fs/binfmt_misc";
constexpr uint64_t kMaxHandlerBytes = 64 << 10;

bool HasHandler(const std::string& architecture) {
  const absl::StatusOr<std::vector<std::string>> names = ListDir(kHandlers);
  if (!names.ok()) return false;
  return std::any_of(names->begin(), names->end(), [&](const std::string& name) {
    if (name == "register" || name == "status") return false;
    const absl::StatusOr<std::string> text =
        ReadFile(StrCat(kHandlers, "/", name), kMaxHandlerBytes);
    return text.ok() && HandlesArchitecture(*text, architecture);
  });
}

absl::Status CheckMachine(const std::string& reference, const Platform& image) {
  const Platform host = Platform::Host();
  if (!image.os.empty() && image.os != host.os) {
    return absl::FailedPreconditionError(StrCat(reference, ": its programs are for ",
                                                Printable(image.os, 40), ", not for ", host.os));
  }
  if (RunsNatively(image, host) || HasHandler(image.architecture)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat(reference, ": its programs are for ", Printable(image.ToString(), 60),
             ", and this machine is ", host.ToString(),
             "; choose another --platform, or install an emulator (package qemu-user-static)"));
}

}  // namespace

absl::StatusOr<ImageProgram> FindProgram(ClientSession& session, DaemonClient& client,
                                         const RunOptions& options, bool shell) {
  ImageProgram out;
  IMAGEFS_ASSIGN_OR_RETURN(out.image, session.MakeImageRequest(options.reference, options.image));
  control::v1::InspectRequest request;
  *request.mutable_image() = out.image;
  control::v1::InspectReply reply;
  IMAGEFS_RETURN_IF_ERROR(client.Inspect(request, &reply));
  const std::string& reference = out.image.reference();
  if (const std::string& type = reply.image().artifact_type(); !type.empty()) {
    return absl::FailedPreconditionError(StrCat(reference, " is an artifact (", Printable(type, 80),
                                                "), not an image, and says no program to run; ",
                                                "mount it with: imagefs mount"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const ImageConfig config, ParseImageConfig(reply.config_json()));
  IMAGEFS_RETURN_IF_ERROR(CheckMachine(reference, config.platform));
  const bool terminal = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
  absl::StatusOr<RunSpec> spec = MakeRunSpec(config, options, shell, terminal, ProcessEnvironment);
  if (!spec.ok()) return Annotate(spec.status(), reference);
  out.spec = *std::move(spec);
  out.manifest_digest = reply.image().manifest_digest();
  out.config_json = reply.config_json();
  // It was asked for just now.
  if (out.image.pull_policy() == control::v1::ImageRequest::ALWAYS) {
    out.image.set_pull_policy(control::v1::ImageRequest::MISSING);
  }
  return out;
}

absl::Status CheckSameImage(const ImageProgram& program, const control::v1::MountResult& mounted) {
  if (mounted.image().manifest_digest() == program.manifest_digest) return absl::OkStatus();
  return absl::UnavailableError(
      StrCat(program.image.reference(), " became another image meanwhile; run it again"));
}

}  // namespace imagefs
