//! Who is there: retained on `g/{gateway}` and `s/{device}`, and left there by their wills.
//!
//! ```text
//! presence {0: gateway (text), 1: boot (uint64), 2: online (bool), 3: models [{0: model (text), 1: digest (32 bytes)}, …]}
//! status   {0: device (text),  1: boot (uint64), 2: online (bool), 3: version (text), 4: models [as above]}
//! ```
//!
//! An empty retained body (which deletes the message at the broker) is no presence. A reader ignores an offline message whose
//! boot id is not the one of the online message it has: it is the will of an earlier run.

use bytes::Bytes;

use crate::cbor::{self, Key, Reader, Writer, required};
use crate::error::DecodeError;
use crate::ids::{BootId, DeviceId, Digest, GatewayId, ModelId};
use crate::limits::{MAX_MODELS, MAX_RETAINED_BYTES, MAX_TEXT_BYTES};

type WriteResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

const PRESENCE: &str = "presence";
const STATUS: &str = "status";

/// Bytes that one model takes at most: map, keys, a 48-byte id and a digest.
const MODEL_BYTES: usize = 96;

/// Whether a gateway is there and which models it serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayPresence {
    /// Which gateway.
    pub gateway: GatewayId,
    /// Its run.
    pub boot: BootId,
    /// Whether it takes requests.
    pub online: bool,
    /// What it serves; at most [`MAX_MODELS`] are sent.
    pub models: Vec<(ModelId, Digest)>,
}

/// Whether a device is there and what it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceStatus {
    /// Which device.
    pub device: DeviceId,
    /// Its run.
    pub boot: BootId,
    /// Whether it is connected.
    pub online: bool,
    /// The program's version; cut to [`MAX_TEXT_BYTES`] when sent.
    pub version: String,
    /// What it runs; at most [`MAX_MODELS`] are sent.
    pub models: Vec<(ModelId, Digest)>,
}

impl GatewayPresence {
    /// The retained body.
    pub fn encode(&self) -> Vec<u8> {
        cbor::write(80 + MODEL_BYTES * self.models.len(), |writer| {
            writer.map(4)?;
            writer.u8(0)?.str(self.gateway.as_str())?;
            writer.u8(1)?.u64(self.boot.0)?;
            writer.u8(2)?.bool(self.online)?;
            writer.u8(3)?;
            write_models(writer, &self.models)
        })
    }

    /// Reads a retained body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let body = Bytes::copy_from_slice(body);
        let mut reader = Reader::new(PRESENCE, &body, MAX_RETAINED_BYTES)?;
        let (mut gateway, mut boot, mut online, mut models) = (None, None, None, None);
        reader.map(PRESENCE, |reader, key| {
            match key {
                0 => gateway = Some(GatewayId::parse(reader.text("gateway", MAX_TEXT_BYTES)?)?),
                1 => boot = Some(BootId(reader.u64("boot")?)),
                2 => online = Some(reader.bool("online")?),
                3 => models = Some(read_models(reader)?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        reader.finish(PRESENCE)?;
        Ok(GatewayPresence {
            gateway: required(gateway, PRESENCE, 0, "gateway")?,
            boot: required(boot, PRESENCE, 1, "boot")?,
            online: required(online, PRESENCE, 2, "online")?,
            models: required(models, PRESENCE, 3, "models")?,
        })
    }
}

impl DeviceStatus {
    /// The retained body.
    pub fn encode(&self) -> Vec<u8> {
        cbor::write(96 + self.version.len() + MODEL_BYTES * self.models.len(), |writer| {
            writer.map(5)?;
            writer.u8(0)?.str(self.device.as_str())?;
            writer.u8(1)?.u64(self.boot.0)?;
            writer.u8(2)?.bool(self.online)?;
            writer.u8(3)?.str(cbor::cut(&self.version, MAX_TEXT_BYTES))?;
            writer.u8(4)?;
            write_models(writer, &self.models)
        })
    }

    /// Reads a retained body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let body = Bytes::copy_from_slice(body);
        let mut reader = Reader::new(STATUS, &body, MAX_RETAINED_BYTES)?;
        let (mut device, mut boot, mut online, mut version, mut models) = (None, None, None, None, None);
        reader.map(STATUS, |reader, key| {
            match key {
                0 => device = Some(DeviceId::parse(reader.text("device", MAX_TEXT_BYTES)?)?),
                1 => boot = Some(BootId(reader.u64("boot")?)),
                2 => online = Some(reader.bool("online")?),
                3 => version = Some(reader.text("version", MAX_TEXT_BYTES)?.to_owned()),
                4 => models = Some(read_models(reader)?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        reader.finish(STATUS)?;
        Ok(DeviceStatus {
            device: required(device, STATUS, 0, "device")?,
            boot: required(boot, STATUS, 1, "boot")?,
            online: required(online, STATUS, 2, "online")?,
            version: required(version, STATUS, 3, "version")?,
            models: required(models, STATUS, 4, "models")?,
        })
    }
}

fn write_models(writer: &mut Writer, models: &[(ModelId, Digest)]) -> WriteResult {
    let models = &models[..models.len().min(MAX_MODELS)];
    writer.array(models.len() as u64)?;
    for (model, digest) in models {
        writer.map(2)?.u8(0)?.str(model.as_str())?.u8(1)?.bytes(digest.as_bytes())?;
    }
    Ok(())
}

fn read_models(reader: &mut Reader<'_>) -> Result<Vec<(ModelId, Digest)>, DecodeError> {
    reader.array("number of models", MAX_MODELS, |reader| {
        let (mut model, mut digest) = (None, None);
        reader.map("model entry", |reader, key| {
            match key {
                0 => model = Some(ModelId::parse(reader.text("model", MAX_TEXT_BYTES)?)?),
                1 => digest = Some(Digest(reader.fixed("model digest")?)),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        Ok((required(model, "model entry", 0, "model")?, required(digest, "model entry", 1, "digest")?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_hardened, with_unknown_key};

    fn models(count: usize) -> Vec<(ModelId, Digest)> {
        (0..count).map(|index| (ModelId::parse(&format!("{index:0>48}")).unwrap(), Digest([0xd1; 32]))).collect()
    }

    fn presence() -> GatewayPresence {
        GatewayPresence {
            gateway: GatewayId::parse("gw-1").unwrap(),
            boot: BootId(0x0102_0304_0506_0708),
            online: true,
            models: vec![(ModelId::parse("digits").unwrap(), Digest([0xc1; 32]))],
        }
    }

    fn status() -> DeviceStatus {
        DeviceStatus {
            device: DeviceId::parse("camera-7").unwrap(),
            boot: BootId(7),
            online: false,
            version: "0.1.0".to_owned(),
            models: vec![(ModelId::parse("digits").unwrap(), Digest([0xe1; 32]))],
        }
    }

    /// The examples of docs/protocol.md.
    const PRESENCE_GOLDEN: &str = "a4
        00 64 67772d31
        01 1b 0102030405060708
        02 f5
        03 81 a2
            00 66 646967697473
            01 5820 c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1";
    const STATUS_GOLDEN: &str = "a5
        00 68 63616d6572612d37
        01 07
        02 f4
        03 65 302e312e30
        04 81 a2
            00 66 646967697473
            01 5820 e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1";

    #[test]
    fn presence_and_status_are_hardened_around_their_golden_bytes() {
        assert_hardened(&presence(), PRESENCE_GOLDEN, GatewayPresence::encode, |body| GatewayPresence::decode(body));
        assert_hardened(&status(), STATUS_GOLDEN, DeviceStatus::encode, |body| DeviceStatus::decode(body));
    }

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        assert_eq!(GatewayPresence::decode(&with_unknown_key(presence().encode())).unwrap(), presence());
        assert_eq!(DeviceStatus::decode(&with_unknown_key(status().encode())).unwrap(), status());
    }

    #[test]
    fn the_largest_messages_fit_what_brokers_retain() {
        let presence = GatewayPresence { models: models(MAX_MODELS + 9), ..presence() };
        let body = presence.encode();
        assert!(body.len() <= MAX_RETAINED_BYTES, "{}", body.len());
        assert_eq!(GatewayPresence::decode(&body).unwrap().models, models(MAX_MODELS));

        let status = DeviceStatus { version: "v".repeat(9999), models: models(MAX_MODELS), ..status() };
        let body = status.encode();
        assert!(body.len() <= MAX_RETAINED_BYTES, "{}", body.len());
        assert_eq!(DeviceStatus::decode(&body).unwrap().version.len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn oversized_and_empty_bodies_are_refused() {
        let large = vec![0; MAX_RETAINED_BYTES + 1];
        assert!(matches!(GatewayPresence::decode(&large), Err(DecodeError::TooLarge { .. })));
        assert!(matches!(DeviceStatus::decode(&large), Err(DecodeError::TooLarge { .. })));
        assert!(GatewayPresence::decode(&[]).is_err());
        assert!(DeviceStatus::decode(&[]).is_err());
    }
}
