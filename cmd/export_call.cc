// SPDX-License-Identifier: Apache-2.0
// Export: resolve the image, fetch all layers, wait until they are durable, add them to a shared
// store. Import: copy an image of a shared store.
#include "base/cancel.h"
#include "base/directory.h"
#include "base/status.h"
#include "cmd/transfer_call.h"

namespace imagefs {
namespace {

using control::v1::MountEvent;

absl::StatusOr<std::string> ParseDirectory(const std::string& directory) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(directory, "DIR"));
  return directory;
}

class ExportCall : public TransferCall {
 public:
  ExportCall(const CallContext& context, grpc::CallbackServerContext* call,
             const control::v1::ExportRequest& request)
      : TransferCall(context, call, "export", request.progress()), request_(request) {}

 private:
  absl::Status Run() override {
    IMAGEFS_ASSIGN_OR_RETURN(directory_, ParseDirectory(request_.directory()));
    SetDirectory(directory_);
    IMAGEFS_RETURN_IF_ERROR(SharedStoreWriter::Check(directory_));  // before anything is fetched
    IMAGEFS_ASSIGN_OR_RETURN(ResolveRequest image, ParseImage(request_.image()));
    return Resolve(std::move(image), [this](const ImageStore::Resolved& found) -> absl::Status {
      IMAGEFS_RETURN_IF_ERROR(BeginLayers(found.image));
      return EnsureChain(found, IndexTrust::None(), [this, found](const ChainRef& chain) {
        return WaitDurable(chain, [this, found, chain] { return Write(found.image, chain); });
      });
    });
  }

  absl::Status Write(const ImageRef& image, const ChainRef& chain) {
    CancelSource cancel;
    WaitFor(FlightTicket([cancel]() mutable { cancel.Cancel(); }));
    return OnExecutor("exporting", "export", [this, image, chain, cancel]() -> absl::Status {
      IMAGEFS_ASSIGN_OR_RETURN(const uint64_t bytes,
                               deps().store.Export(*image, chain, directory_, cancel.token()));
      MountEvent event = MakeResult(*image);
      event.mutable_result()->set_exported_bytes(bytes);
      return Succeed(std::move(event));
    });
  }

  const control::v1::ExportRequest& request_;  // gRPC keeps it until the call is done
  std::string directory_;
};

class ImportCall : public TransferCall {
 public:
  ImportCall(const CallContext& context, grpc::CallbackServerContext* call,
             const control::v1::ImportRequest& request)
      : TransferCall(context, call, "import", request.progress()), request_(request) {}

 private:
  absl::Status Run() override {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string directory, ParseDirectory(request_.directory()));
    SetDirectory(directory);
    SetReference(request_.reference());
    IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(request_.reference()));
    Platform platform = Platform::Host();  // an artifact, which has none, is found by any
    if (!request_.platform().empty()) {
      IMAGEFS_ASSIGN_OR_RETURN(platform, Platform::Parse(request_.platform()));
    }
    CancelSource cancel;
    WaitFor(FlightTicket([cancel]() mutable { cancel.Cancel(); }));
    return OnExecutor("importing", "import",
                      [this, directory, reference, platform, cancel]() -> absl::Status {
                        IMAGEFS_ASSIGN_OR_RETURN(
                            const ImageRef image,
                            deps().store.Import(directory, reference, platform, cancel.token()));
                        IMAGEFS_RETURN_IF_ERROR(BeginLayers(image));
                        return Succeed(MakeResult(*image));
                      });
  }

  const control::v1::ImportRequest& request_;  // gRPC keeps it until the call is done
};

}  // namespace

MountEventReactor* StartExport(const CallContext& context, grpc::CallbackServerContext* call,
                               const control::v1::ExportRequest& request) {
  return TransferCall::Start(std::make_shared<ExportCall>(context, call, request));
}

MountEventReactor* StartImport(const CallContext& context, grpc::CallbackServerContext* call,
                               const control::v1::ImportRequest& request) {
  return TransferCall::Start(std::make_shared<ImportCall>(context, call, request));
}

}  // namespace imagefs
