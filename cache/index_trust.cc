#include "cache/index_trust.h"

namespace imagefs {

std::string_view IndexSourceName(IndexSource source) {
  switch (source) {
    case IndexSource::kInImage:
      return "in-image";
    case IndexSource::kBeside:
      return "beside";
    case IndexSource::kConfigured:
      return "configured";
    case IndexSource::kSigned:
      return "signed";
  }
  return "in-image";
}

IndexTrust TrustTrusted(const Reference&) { return IndexTrust::Trusted(); }

IndexTrust TrustOfImage(const TrustOf& trust_of, const ResolvedImage& image) {
  const absl::StatusOr<Reference> reference = Reference::Parse(image.reference);
  return reference.ok() ? trust_of(*reference) : IndexTrust::None();
}

}  // namespace imagefs
